"""Read the hidden states of a causal language model, and put others in their place.

    depth, spread        how many blocks a model has; some layers, evenly spread
    read_after           states and logits after vectors, each behind the same prompt
    read_texts           states at every position of some texts
    to_logits            what the model's own final norm and head make of a state
    check_head           whether that is what the model predicts

Layer l is what block l takes in: 0 is the embeddings, `depth` what the last block puts
out, before the final norm. Plain hooks, so that any model does whose blocks are one
list and whose final norm has one of the usual names.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from experiments.scoring import equal_length_batches
from helpers.batching import CachedForward

if TYPE_CHECKING:
    from torch import Tensor, nn

    from helpers.models import LM

NORMS = ("norm", "ln_f", "final_layer_norm", "final_layernorm", "norm_f")
Change = Callable[["Tensor"], "Tensor"]  # of a block's input (B,T,D)


def depth(model: Any) -> int:
    """Count the blocks of a model."""
    return model.config.num_hidden_layers


def spread(model: Any, most: int = 8) -> list[int]:
    """Choose layers 0 to `depth`, about `most` of them, evenly, with the middle one."""
    chosen = {round(x) for x in np.linspace(0, depth(model), most + 1)}
    return sorted(chosen | {middle(model)})


def middle(model: Any) -> int:
    """Index the layer half way up."""
    return max(1, depth(model) // 2)


def stages(model: Any) -> list[nn.Module]:
    """List the blocks and the final norm: stage l takes in the state of layer l.

    ValueError for a model that is built otherwise.
    """
    for owner in model.base_model.modules():
        for blocks in owner.children():
            if isinstance(blocks, torch.nn.ModuleList) and len(blocks) == depth(model):
                norms = (getattr(owner, name, None) for name in NORMS)
                for norm in filter(None, norms):
                    return [*blocks, norm]
    raise ValueError(
        f"{type(model).__name__}: expected a list of {depth(model)} blocks with a "
        f"final norm beside it, named {', '.join(NORMS)}"
    )


@contextmanager
def hooked(model: Any, hooks: dict[int, Change]) -> Iterator[None]:
    """Pass what stage l takes in through hooks[l] while the model runs."""

    def change(own: Change):
        def hook(module, args, kwargs):
            if args:
                return (own(args[0]), *args[1:]), kwargs
            return args, kwargs | {"hidden_states": own(kwargs["hidden_states"])}

        return hook

    where = stages(model)
    handles = [
        where[layer].register_forward_pre_hook(change(own), with_kwargs=True)
        for layer, own in hooks.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def read_after(
    lm: LM, prompt: list[int], fed: Tensor, patch: tuple[int, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Read vectors fed (N,S,D), row by row, each behind the same prompt (ids).

    -> states (L+1,N,D) and logits (N,V) at the last of the S positions, float32.
    patch: a layer and states (N,D) that take the place of those at the first position.
    """
    kept: dict[int, Tensor] = {}
    layers, places = range(depth(lm.model) + 1), fed.shape[1]

    def keeping(layer: int) -> Change:
        def keep(x: Tensor) -> Tensor:
            if patch and layer == patch[0]:
                x = x.clone()
                x[:, -places] = patch[1].to(x)
            kept[layer] = x[:, -1].float()
            return x

        return keep

    fed = fed.to(lm.device, lm.dtype)
    forward = copy.copy(_read_prompt(lm, tuple(prompt)))
    if hasattr(forward.cache, "batch_repeat_interleave"):
        forward.cache = copy.deepcopy(forward.cache)
        forward.cache.batch_repeat_interleave(len(fed))
    else:  # a cache that cannot be dealt out: the prompt is read again with each
        fed = torch.cat([lm.embed[prompt].expand(len(fed), -1, -1), fed], 1)
        forward = CachedForward(lm.model, fed, None, 0, share=False)
    with hooked(lm.model, {layer: keeping(layer) for layer in layers}):
        logits = forward(fed).float()
    return torch.stack([kept[layer] for layer in layers]), logits


@lru_cache(maxsize=2)  # the same prompt is read many times in a row
def _read_prompt(lm: LM, prompt: tuple[int, ...]) -> CachedForward:
    """Read a prompt; its cache is not to be changed."""
    embeds = lm.embed[list(prompt)][None]
    forward = CachedForward(lm.model, embeds, None, 0)
    forward(embeds)
    return forward


@torch.no_grad()
def read_texts(lm: LM, rows: list[list[int]], layers: Sequence[int]) -> Tensor:
    """Read texts (id lists) -> states (len(layers),N,D), first positions left out.

    What stands first has a state unlike all others, and predicts next to nothing.
    """
    found: dict[int, list[Tensor]] = {layer: [] for layer in layers}

    def keeping(layer: int) -> Change:
        def keep(x: Tensor) -> Tensor:
            found[layer].append(x[:, 1:].flatten(0, 1).float())
            return x

        return keep

    for batch in equal_length_batches(rows):
        ids = torch.tensor([rows[i] for i in batch], device=lm.device)
        with hooked(lm.model, {layer: keeping(layer) for layer in layers}):
            lm.model.base_model(input_ids=ids, use_cache=False)
    return torch.stack([torch.cat(found[layer]) for layer in layers])


def check_head(lm: LM, rows: list[list[int]]) -> None:
    """Raise ValueError unless `to_logits` makes the model's logits of its last states.

    It does not where a model caps or scales its logits.
    """
    last = read_texts(lm, rows[:2], [depth(lm.model)])[0]
    with torch.no_grad():
        ids = torch.tensor(rows[:2], device=lm.device)
        due = lm.model(input_ids=ids, use_cache=False).logits[:, 1:].flatten(0, 1)
        gap = (to_logits(lm, last) - due).abs().max() / due.std()
    if gap > 1e-2:
        raise ValueError(
            f"{type(lm.model).__name__}: its head makes other logits of the last state "
            f"({gap:.2g} of their spread): a lens cannot use it"
        )


def to_logits(lm: LM, states: Tensor, rows: Tensor | None = None) -> Tensor:
    """Apply the model's final norm and head to states (...,D) -> logits (...,V).

    rows: the ids of the tokens wanted, all by default.
    """
    normed = stages(lm.model)[-1](states.to(lm.dtype))
    head = lm.model.get_output_embeddings()
    if rows is None:
        return head(normed).float()
    bias = None if head.bias is None else head.bias[rows]
    return torch.nn.functional.linear(normed, head.weight[rows], bias).float()
