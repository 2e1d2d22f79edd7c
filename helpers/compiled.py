"""A step of the loop as one compiled graph: what compile=True runs.

The prompt is read by the ordinary forward; its cache is copied to a static one, whose
shape does not grow, and from then on forward, weights and mixture are a single graph.
The first call for a batch size and a cache size compiles, tens of seconds; later ones
start at once.
"""

from __future__ import annotations

from types import FunctionType
from typing import TYPE_CHECKING

import torch

from .forward import Cached, as_taken

if TYPE_CHECKING:
    from torch import Tensor

    from .models import LM


def compiled(lm: LM, forward: Cached, mask: Tensor | None, total: int, key, finish):
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
            _graph(model, finish, size, lm.device, lm.dtype),
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


def _graph(model, finish, size, device, dtype):
    """Compile one step. No guards: what they would check, the caller's key names."""
    slots = torch.arange(size, device=device)

    def step(x, slot, keys, pads, cache):
        seen = slots <= slot
        seen = (seen if keys is None else seen & keys).view(-1, 1, 1, size)
        position = slot.view(1, 1) if pads is None else slot - pads
        logits = model(
            inputs_embeds=x,
            attention_mask=as_taken(model, seen, dtype),
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
