"""Compile a step of the loop into one graph: what compile=True runs.

The prompt is read by the ordinary forward; its cache is copied to a static one, whose
shape does not grow, and from then on forward, weights and mixture are a single graph.
The first call for a batch size and a cache size compiles, tens of seconds; later ones
start at once.

One sequence alone is a product of one row with each weight matrix, which takes as long
as reading the matrix. On the CPU the library that torch calls for it reads with one
core; `OneRow` writes the product as a sum, which the compiler spreads over all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from types import FunctionType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import linear, pad
from torch.overrides import TorchFunctionMode

from .batching import CachedForward, to_attention_mask

if TYPE_CHECKING:
    from .models import LM


def compile_step(
    lm: LM,
    forward: CachedForward,
    mask: Tensor | None,
    total: int,
    key: tuple[Any, ...],
    choose: Callable[[Tensor], tuple[Tensor, ...]],
) -> Callable[[Tensor], Sequence[Tensor]]:
    """Compile the forward and `choose(logits)` -> a function (x) -> outputs of a step.

    forward: has read the prompt; its keys and values are copied to a static cache of at
    least `total` positions (64, 128, 256, ...). Graphs are kept in `lm` by batch, size,
    padding, hooks and `key`, which names all that `choose` depends on.
    """
    from transformers import StaticCache

    model, layers = lm.model, forward.cache.layers
    batch, size = layers[0].keys.shape[0], 64
    while size < total:
        size *= 2
    hooks = [(*m._forward_pre_hooks, *m._forward_hooks) for m in model.modules()]
    key = ("compiled", batch, size, mask is None, model.training, str(hooks), key)
    if key not in lm._cache:
        graph = _compile(lm, choose, batch, size)
        lm._cache[key] = graph, StaticCache(config=model.config, max_cache_len=size)
    step, cache = lm._cache[key]
    cache.reset()
    for i, layer in enumerate(layers):
        cache.update(layer.keys, layer.values, i)
    slot = torch.tensor(forward.length, device=lm.device)
    keys = padding = None
    if mask is not None:
        keys = pad(mask.bool(), (0, size - mask.shape[1]), value=True)
        padding = (~mask.bool()).sum(1, keepdim=True)

    def compiled(x: Tensor) -> Sequence[Tensor]:
        nonlocal slot
        outputs, slot = step(x, slot, keys, padding, cache)
        # a CUDA graph writes its outputs to the same memory every time
        return [out.clone() for out in outputs] if x.is_cuda else outputs

    return compiled


class OneRow(TorchFunctionMode):
    """Products of one float32 row with a matrix as sums; everything else as it is.

    The same numbers added in another order: they differ in the last bits, as those of
    any two processors do. For code that torch.compile turns into loops: outside, the
    sum's terms are written to memory first.
    """

    ROWS = 8  # of a (in,out) matrix, summed at a time: what the registers hold

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        sums = {linear: self.linear, torch.addmm: self.addmm}
        return sums.get(func, func)(*args, **(kwargs or {}))

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply x (...,I) by weight (O,I): a sum along each row of the weights."""
        if x.numel() != x.shape[-1] or x.dtype != torch.float32:
            return linear(x, weight, bias)
        out = (weight * x.reshape(-1)).sum(-1)
        return (out if bias is None else out + bias).view(*x.shape[:-1], -1)

    def addmm(self, bias: Tensor, x: Tensor, weight: Tensor, **scaled: Any) -> Tensor:
        """Multiply x (1,I) by weight (I,O), GPT-2's layout: ROWS rows at a time."""
        height, width = weight.shape
        fits = len(x) == 1 and height % self.ROWS == 0 and x.dtype == torch.float32
        if scaled or not fits:
            return torch.addmm(bias, x, weight, **scaled)
        blocks = weight.reshape(-1, self.ROWS, width) * x.reshape(-1, self.ROWS, 1)
        return (blocks.sum(1).sum(0) + bias)[None]


def _compile(lm: LM, choose: Callable[..., Any], batch: int, size: int) -> Any:
    """Compile one step. No guards: what they would check, the caller's key names."""
    model, device, dtype = lm.model, lm.device, lm.dtype
    slots = torch.arange(size, device=device)
    one_row = batch == 1 and device.type == "cpu"

    def step(
        x: Tensor, slot: Tensor, keys: Tensor | None, padding: Tensor | None, cache: Any
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        visible = slots <= slot
        visible = (visible if keys is None else visible & keys).view(-1, 1, 1, size)
        with OneRow() if one_row else nullcontext():
            logits = model(
                inputs_embeds=x,
                attention_mask=to_attention_mask(model, visible, dtype),
                position_ids=slot.view(1, 1) if padding is None else slot - padding,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        return choose(logits), slot + 1

    # torch.compile finds its graphs by code object: a code object of its own for each
    code = step.__code__.replace()
    step = FunctionType(code, step.__globals__, "step", None, step.__closure__)
    options: dict[str, Any] = {"guard_filter_fn": lambda guards: [False] * len(guards)}
    if device.type == "cuda":
        options["triton.cudagraphs"] = True
    elif device.type == "cpu":
        options["cpp_wrapper"] = True  # a small model's step is mostly Python otherwise
    return torch.compile(step, fullgraph=True, dynamic=False, options=options)
