"""A step of the loop as one compiled graph: what compile=True runs.

The prompt is read by the ordinary forward; its cache is copied to a static one, whose
shape does not grow, and from then on forward, weights and mixture are a single graph.
The first call for a batch size and a cache size compiles, tens of seconds; later ones
start at once.

One sequence alone is a product of one row with each weight matrix, which takes as long
as reading the matrix. On the CPU the library that torch calls for it reads with one
core; `OneRow` writes the product as a sum, which the compiler spreads over all of them.
"""

from __future__ import annotations

from contextlib import nullcontext
from types import FunctionType
from typing import TYPE_CHECKING

import torch
from torch.overrides import TorchFunctionMode

from .batching import CachedForward, to_attention_mask

if TYPE_CHECKING:
    from torch import Tensor

    from .models import LM


def compile_step(
    lm: LM, forward: CachedForward, mask: Tensor | None, total: int, key, finish
):
    """The forward and `finish(logits)` as one graph a step: a function (x) -> outputs.

    forward: a Cached that has read the prompt; its keys and values are copied to a
    static cache of at least `total` positions (64, 128, 256, ...). Graphs are kept in
    `lm` by batch, size, padding and `key`, which names all that `finish` depends on.
    """
    from transformers import StaticCache

    model, layers = lm.model, forward.cache.layers
    batch, size = layers[0].keys.shape[0], 64
    while size < total:
        size *= 2
    key = ("compiled", batch, size, mask is None, model.training, key)
    if key not in lm._kept:
        lm._kept[key] = (
            _graph(model, finish, batch, size, lm.device, lm.dtype),
            StaticCache(config=model.config, max_cache_len=size),
        )
    step, cache = lm._kept[key]
    cache.reset()
    for i, layer in enumerate(layers):
        cache.update(layer.keys, layer.values, i)
    slot = torch.tensor(forward.end, device=lm.device)
    keys = pads = None
    if mask is not None:
        later = size - mask.shape[1]
        keys = torch.nn.functional.pad(mask.bool(), (0, later), value=True)
        pads = (~mask.bool()).sum(1, keepdim=True)

    def advance(x):
        nonlocal slot
        outputs, slot = step(x, slot, keys, pads, cache)
        if x.is_cuda:  # a CUDA graph writes its outputs to the same memory every time
            return [out.clone() for out in outputs]
        return outputs

    return advance


class OneRow(TorchFunctionMode):
    """Products of one float32 row with a matrix as sums; everything else as it is.

    The same numbers added in another order: they differ in the last bits, as those of
    any two processors do. For code that torch.compile turns into loops: outside, the
    sum's terms are written to memory first.
    """

    ROWS = 8  # of a (in,out) matrix, summed at a time: what the registers hold

    def __torch_function__(self, func, types, args=(), kwargs=None):
        sums = {torch.nn.functional.linear: self.linear, torch.addmm: self.addmm}
        return sums.get(func, func)(*args, **(kwargs or {}))

    def linear(self, x, weight, bias=None):
        """x (...,I) times weight (O,I): a sum along each row of the weights."""
        if x.numel() != x.shape[-1] or x.dtype != torch.float32:
            return torch.nn.functional.linear(x, weight, bias)
        out = (weight * x.reshape(-1)).sum(-1)
        return (out if bias is None else out + bias).view(*x.shape[:-1], -1)

    def addmm(self, bias, x, weight, **scaled):
        """x (1,I) times weight (I,O), GPT-2's layout: ROWS rows of it at a time."""
        height, width = weight.shape
        fits = len(x) == 1 and height % self.ROWS == 0 and x.dtype == torch.float32
        if scaled or not fits:
            return torch.addmm(bias, x, weight, **scaled)
        blocks = weight.reshape(-1, self.ROWS, width) * x.reshape(-1, self.ROWS, 1)
        return (blocks.sum(1).sum(0) + bias)[None]


def _graph(model, finish, batch, size, device, dtype):
    """Compile one step. No guards: what they would check, the caller's key names."""
    slots = torch.arange(size, device=device)
    alone = batch == 1 and device.type == "cpu"

    def step(x, slot, keys, pads, cache):
        seen = slots <= slot
        seen = (seen if keys is None else seen & keys).view(-1, 1, 1, size)
        position = slot.view(1, 1) if pads is None else slot - pads
        with OneRow() if alone else nullcontext():
            logits = model(
                inputs_embeds=x,
                attention_mask=to_attention_mask(model, seen, dtype),
                position_ids=position,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
        return finish(logits), slot + 1

    # torch.compile finds its graphs by code object: a code object of its own for each
    code = step.__code__.replace()
    step = FunctionType(code, step.__globals__, "step", None, step.__closure__)
    options = {"guard_filter_fn": lambda guards: [False] * len(guards)}
    if device.type == "cuda":
        options["triton.cudagraphs"] = True
    elif device.type == "cpu":
        options["cpp_wrapper"] = True  # a small model's step is mostly Python otherwise
    return torch.compile(step, fullgraph=True, dynamic=False, options=options)
