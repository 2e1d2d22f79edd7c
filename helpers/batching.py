"""Embeddings in, next-token logits out: prompts, padding, masks and the cache.

    prompt_embeds, left_pad   texts or rows -> inputs_embeds (B,T,D) and mask (B,T)
    checked, batches          refuse what cannot run; cut into batches
    Cached                    one batch and its cache: call it once a step
    next_logits               logits after each sequence, without a loop

Rows of unequal length are padded on the left, with positions from the mask. A 2-D
mask would make transformers read it, and wait for the device, at every step; so a 4-D
mask is made once before the first step and sliced, or none where nothing is padded.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from .mixture import describe, is_float_tensor

if TYPE_CHECKING:
    from torch import Tensor

    from .models import LM


def prompt_embeds(lm: LM, prompts: str | list) -> tuple[Tensor, Tensor]:
    """Embeddings of prompts (texts or id lists), left-padded: (B,T,D) and mask (B,T).

    Texts are tokenised with the tokenizer's defaults. Raises ValueError for no prompt,
    an empty one, or ids outside the vocabulary.
    """
    rows, size = [], require_lm(lm).embed.shape[0]
    prompts = [prompts] if isinstance(prompts, str) else prompts
    if isinstance(prompts, Mapping) or not isinstance(prompts, Iterable):
        raise ValueError(
            f"prompts must be a text, or a list of texts or id lists, not "
            f"{describe(prompts)}"
        )
    for number, prompt in enumerate(prompts, 1):
        text = isinstance(prompt, str)
        if text and lm.tokenizer is None:
            raise ValueError("this LM has no tokenizer: give prompts as lists of ids")
        ids = _encoded(lm, prompt, number) if text else prompt
        try:
            ids = torch.as_tensor(ids)
        except (TypeError, ValueError, RuntimeError, OverflowError):
            ids = torch.tensor([-1])  # refused below
        if ids.numel() == 0 or (text and not prompt):
            raise ValueError(f"prompt {number} is empty: give it at least one token")
        known = not ids.is_floating_point() and 0 <= ids.min() <= ids.max() < size
        if ids.ndim != 1 or not known:
            raise ValueError(
                f"prompt {number} must be a text or a list of ids from 0 to {size - 1}"
            )
        rows.append(lm.embed[ids.to(lm.device)])
    return left_pad(rows)


def _encoded(lm, text: str, number: int) -> list[int]:
    broken = next((c for c in text if "\ud800" <= c <= "\udfff"), "")
    if broken:  # half of a character: no tokenizer can read it
        raise ValueError(
            f"prompt {number} holds {ascii(broken)}, which is no character: decode its "
            'bytes with errors="replace"'
        )
    return lm.tokenizer(text)["input_ids"]


def require_lm(lm) -> LM:
    """lm, if it is what `load` returns; ValueError otherwise."""
    if not hasattr(lm, "embed"):
        raise ValueError(f"lm must be what load() returns, not {describe(lm)}")
    return lm


def left_pad(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack (T_i,D) embeddings into (B,T,D), zeros on the left, with the mask (B,T)."""
    listed = isinstance(rows, (list, tuple)) or getattr(rows, "ndim", 0) == 3
    if not listed or not len(rows):
        raise ValueError("no prompts: expected a list with at least one")
    for row in rows:
        if (
            not is_float_tensor(row)
            or row.ndim != 2
            or row.shape[1] != rows[0].shape[-1]
        ):
            raise ValueError(
                f"embeddings must be float tensors (T,D) of one width, not "
                f"{describe(row)}"
            )
    longest = max(len(row) for row in rows)
    embeds = rows[0].new_zeros(len(rows), longest, rows[0].shape[-1])
    mask = torch.zeros(len(rows), longest, dtype=torch.long, device=embeds.device)
    for b, row in enumerate(rows):
        embeds[b, longest - len(row) :] = row
        mask[b, longest - len(row) :] = 1
    return embeds, mask


def prepare_inputs(lm: LM, embeds: Tensor | list, mask: Tensor | None, steps: int):
    """Embeddings (B,T,D) and mask (B,T) or None, on the model's device, in its dtype.

    Raises ValueError when shapes do not fit, the mask is not left-padded, or the
    longest prompt and `steps` new positions, the last never read, exceed the context.
    """
    if isinstance(embeds, (list, tuple)):
        embeds, mask = left_pad(embeds)
    width = require_lm(lm).embed.shape[1]
    shaped = is_float_tensor(embeds) and embeds.ndim == 3 and embeds.shape[2] == width
    if not shaped or 0 in embeds.shape:
        raise ValueError(
            f"inputs_embeds must be floats (B,T,{width}) with at least one prompt and "
            f"position, not {describe(embeds)}"
        )
    if mask is not None and not isinstance(mask, torch.Tensor):
        raise ValueError(f"attention_mask must be a tensor (B,T), not {describe(mask)}")
    if mask is not None and (
        mask.shape != embeds.shape[:2] or not bool(mask[:, -1].all())
    ):
        raise ValueError(
            f"attention_mask must be {tuple(embeds.shape[:2])} and left-padded (its "
            f"last column all 1), not {tuple(mask.shape)}"
        )
    longest = embeds.shape[1] if mask is None else int(mask.sum(1).max())
    if longest + steps - 1 > lm.context:
        raise ValueError(
            f"a prompt of {longest} tokens and {steps} steps do not fit the context of "
            f"{lm.context}: shorten the prompt or take fewer steps"
        )
    embeds = embeds.detach().to(lm.device, lm.dtype)
    return embeds, None if mask is None else mask.to(lm.device)


def split_batches(
    lm: LM, embeds: Tensor, mask: Tensor | None, size: int
) -> list[tuple]:
    """(first row, embeds, mask) of at most `size` rows, without columns that only pad.

    A model that cannot be padded safely gets unequal rows one at a time.
    """
    if not isinstance(size, int) or size < 1:
        raise ValueError(f"batch_size must be a whole number, at least 1, not {size!r}")
    if (
        mask is not None
        and not supports_left_padding(lm.model)
        and not bool(mask.all())
    ):
        size = 1
    cut = []
    for first in range(0, len(embeds), size):
        x, m = embeds[first : first + size], mask
        if m is not None:
            m = m[first : first + size]
            used = int((m.cumsum(1) > 0).sum(1).max())
            x, m = x[:, -used:], m[:, -used:]
            m = None if bool(m.all()) else m
        cut.append((first, x, m))
    return cut


def supports_left_padding(model) -> bool:
    """Whether left padding is safe: positions can be given, attention is full."""
    config = model.config
    kinds = getattr(config, "layer_types", None) or ["full_attention"]
    return (
        set(kinds) == {"full_attention"}
        and getattr(config, "sliding_window", None) is None
        and config._attn_implementation in ("sdpa", "eager")
        and "position_ids" in inspect.signature(model.forward).parameters
    )


class CachedForward:
    """One batch and its growing cache: new embeddings (B,T,D) in, logits (B,V) out.

    Positions and masks for `steps` later positions are made here; a call takes slices.
    """

    def __init__(self, model, embeds: Tensor, mask: Tensor | None, steps: int):
        batch, self.end = embeds.shape[0], 0
        total = embeds.shape[1] + steps
        self.model, self.cache = model, None
        known = inspect.signature(model.forward).parameters
        self.fixed = {"logits_to_keep": 1} if "logits_to_keep" in known else {}
        self.positions = self.masks = None
        if "position_ids" in known:
            self.positions = torch.arange(total, device=embeds.device).expand(batch, -1)
        if mask is not None:
            keys = torch.nn.functional.pad(mask.bool(), (0, steps), value=True)
            self.positions = (keys.long().cumsum(1) - 1).clamp_min(0)
            square = keys.new_ones(2 * mask.shape[1:])
            seen = keys[:, None, None, : len(square)] & square.tril()
            # a padding position sees itself: with nothing to see it would turn NaN
            first = to_attention_mask(model, seen | square.tril().triu(), embeds.dtype)
            self.masks = (
                first,
                to_attention_mask(model, keys[:, None, None], embeds.dtype),
            )

    def __call__(self, x: Tensor) -> Tensor:
        start, self.end = self.end, self.end + x.shape[1]
        more = dict(self.fixed)
        if self.positions is not None:
            more["position_ids"] = self.positions[:, start : self.end]
        if self.masks is not None:
            more["attention_mask"] = self.masks[start > 0][..., : self.end]
        out = self.model(
            inputs_embeds=x, past_key_values=self.cache, use_cache=True, **more
        )
        self.cache = out.past_key_values
        return out.logits[:, -1]


def to_attention_mask(model, seen: Tensor, dtype) -> Tensor:
    """A boolean mask as the model's attention takes it: boolean, or added to scores."""
    if model.config._attn_implementation == "sdpa":
        return seen
    lowest = torch.finfo(dtype).min
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, lowest)


@torch.no_grad()
def next_logits(
    lm: LM,
    inputs_embeds: Tensor | list,
    attention_mask: Tensor | None = None,
    batch_size: int = 64,
) -> Tensor:
    """Logits of the next token after each sequence of embeddings -> (B,V) float32.

    inputs_embeds: (B,T,D) with a left-padded mask (B,T), or a list of (T,D).
    """
    embeds, mask = prepare_inputs(lm, inputs_embeds, attention_mask, 1)
    cut = split_batches(lm, embeds, mask, batch_size)
    return torch.cat([CachedForward(lm.model, x, m, 0)(x).float() for _, x, m in cut])
