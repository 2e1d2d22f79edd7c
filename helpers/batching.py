"""Turn prompts into padded embeddings, and embeddings into next-token logits.

    prompt_embeds, left_pad         texts or rows -> inputs_embeds (B,T,D), mask (B,T)
    prepare_inputs, split_batches   refuse what cannot run; cut the rest into batches
    CachedForward                   one batch and its cache: called once a step
    next_logits                     logits after each sequence, without a loop

Rows of unequal length are padded on the left, with positions from the mask. A 2-D
mask would make transformers read it, and wait for the device, at every step; so a 4-D
mask is made once before the first step and sliced, or none where nothing is padded.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from .checkpoints import first_line
from .mixture import check_positive_int, describe, is_float_tensor, is_int_tensor

if TYPE_CHECKING:
    from .models import LM

Prompt: TypeAlias = str | Sequence[int] | Tensor  # a text, or its token ids
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}  # of check_model; else HALF
HALF = 0.1  # half precision: rounding stays below a twentieth on deep models
LEAST_SHARED = 8  # positions: a shorter beginning is not worth a call of its own
# of models checked already: may a row be padded, may rows share what they begin with
_CHECKED: WeakKeyDictionary[Any, tuple[bool, bool]] = WeakKeyDictionary()


def prompt_embeds(lm: LM, prompts: str | Iterable[Prompt]) -> tuple[Tensor, Tensor]:
    """Embed prompts, texts or id lists, left-padded: (B,T,D) and mask (B,T).

    Texts are tokenised with the tokenizer's defaults. Raises ValueError for no prompt,
    an empty one, or ids outside the vocabulary.
    """
    require_lm(lm)
    prompts = [prompts] if isinstance(prompts, str) else prompts
    if isinstance(prompts, Mapping) or not isinstance(prompts, Iterable):
        raise ValueError(
            f"prompts must be a text, or a list of texts or id lists, not "
            f"{describe(prompts)}"
        )
    return left_pad(
        [lm.embed[_prompt_ids(lm, p, number)] for number, p in enumerate(prompts, 1)]
    )


def _prompt_ids(lm: LM, prompt: Prompt, number: int) -> Tensor:
    """Turn prompt `number`, counted from 1, into ids (T,) on the model's device."""
    if isinstance(prompt, str):
        if lm.tokenizer is None:
            raise ValueError("this LM has no tokenizer: give prompts as lists of ids")
        half = next((c for c in prompt if "\ud800" <= c <= "\udfff"), "")
        if half:  # half of a character: no tokenizer can read it
            raise ValueError(
                f"prompt {number} holds {ascii(half)}, which is no character: decode "
                'its bytes with errors="replace"'
            )
        prompt = lm.tokenizer(prompt)["input_ids"] if prompt else []
    last = lm.embed.shape[0] - 1
    try:
        ids = torch.as_tensor(prompt)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        ids = torch.tensor([-1])  # refused below
    if ids.numel() == 0:
        raise ValueError(f"prompt {number} is empty: give it at least one token")
    listed = is_int_tensor(ids) and ids.ndim == 1
    if not listed or not 0 <= int(ids.long().min()) <= int(ids.long().max()) <= last:
        raise ValueError(
            f"prompt {number} must be a text or a list of ids from 0 to {last}"
        )
    return ids.to(lm.device, torch.long)


def require_lm(lm: object) -> None:
    """Raise ValueError unless lm is what `load` returns."""
    if not hasattr(lm, "embed"):
        raise ValueError(f"lm must be what load() returns, not {describe(lm)}")


def left_pad(rows: Tensor | Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack (T_i,D) embeddings into (B,T,D), zeros on the left, with the mask (B,T)."""
    listed = isinstance(rows, (list, tuple)) or getattr(rows, "ndim", 0) == 3
    if not listed or not len(rows):
        raise ValueError("no prompts: expected a list with at least one")
    for row in rows:
        shaped = is_float_tensor(row) and row.ndim == 2
        if not shaped or row.shape[1] != rows[0].shape[1]:
            raise ValueError(
                f"embeddings must be float tensors (T,D) of one width, not "
                f"{describe(row)}"
            )
    longest = max(len(row) for row in rows)
    embeds = rows[0].new_zeros(len(rows), longest, rows[0].shape[1])
    mask = torch.zeros(len(rows), longest, dtype=torch.long, device=embeds.device)
    for b, row in enumerate(rows):
        embeds[b, longest - len(row) :] = row
        mask[b, longest - len(row) :] = 1
    return embeds, mask


def prepare_inputs(
    lm: LM, embeds: Tensor | Sequence[Tensor], mask: Tensor | None, steps: int
) -> tuple[Tensor, Tensor | None]:
    """Check embeddings (B,T,D) and mask (B,T); move them to the model's device, dtype.

    A list of (T,D) is padded and makes its own mask. Raises ValueError when shapes do
    not fit, the mask is not zeros then ones, the longest prompt and `steps` new
    positions, the last of which is never read, exceed the context, or `check_model`
    refuses the model.
    """
    require_lm(lm)
    if isinstance(embeds, (list, tuple)):
        if mask is not None:
            raise ValueError("attention_mask goes with a tensor (B,T,D), not a list")
        embeds, mask = left_pad(embeds)
    width = lm.embed.shape[1]
    fits = is_float_tensor(embeds) and embeds.ndim == 3 and embeds.shape[2] == width
    if not is_float_tensor(embeds) or not fits or 0 in embeds.shape:
        raise ValueError(
            f"inputs_embeds must be floats (B,T,{width}) with at least one prompt and "
            f"position, not {describe(embeds)}"
        )
    if mask is not None and not isinstance(mask, torch.Tensor):
        raise ValueError(f"attention_mask must be a tensor (B,T), not {describe(mask)}")
    if mask is not None and not _is_left_padded(mask, embeds.shape[:2]):
        raise ValueError(
            f"attention_mask must be {tuple(embeds.shape[:2])} and left-padded (each "
            f"row zeros, then ones to its last column), not {describe(mask)}"
        )
    longest = embeds.shape[1] if mask is None else int(mask.sum(1).max())
    if longest + steps - 1 > lm.context:
        raise ValueError(
            f"a prompt of {longest} tokens and {steps} steps do not fit the context of "
            f"{lm.context}: shorten the prompt or take fewer steps"
        )
    check_model(lm.model)
    embeds = embeds.detach().to(lm.device, lm.dtype)
    return embeds, None if mask is None else mask.to(lm.device)


def _is_left_padded(mask: Tensor, shape: torch.Size) -> bool:
    if mask.shape != shape:
        return False
    ones = mask == 1
    rising = (ones[:, 1:] >= ones[:, :-1]).all() & ones[:, -1].all()
    return bool(rising & (ones | (mask == 0)).all())


def split_batches(
    lm: LM, embeds: Tensor, mask: Tensor | None, batch_size: int
) -> list[tuple[int, Tensor, Tensor | None]]:
    """Cut into (first row, embeds, mask) of at most batch_size rows.

    Columns that only pad are dropped, and the mask where nothing is padded. A model
    that cannot be padded safely gets unequal rows one at a time.
    """
    check_positive_int("batch_size", batch_size)
    unequal = mask is not None and not bool(mask.all())
    if unequal and not supports_left_padding(lm.model):
        batch_size = 1
    batches = []
    for first in range(0, len(embeds), batch_size):
        x, m = embeds[first : first + batch_size], None
        if mask is not None and unequal:
            m = mask[first : first + batch_size]
            longest = int(m.sum(1).max())
            x, m = x[:, -longest:], m[:, -longest:]
            m = None if bool(m.all()) else m
        batches.append((first, x, m))
    return batches


def supports_left_padding(model: Any) -> bool:
    """Tell whether left padding is safe: by `check_model`, and full attention.

    Windows, and positions that stretch with the longest row, a short check cannot see.
    """
    config = model.config.get_text_config()
    kinds = getattr(config, "layer_types", None) or getattr(
        config, "attention_layers", ["full_attention"]
    )
    return (
        {*kinds} <= {"full_attention", "global"}
        and getattr(config, "sliding_window", None) is None
        and not re.search(
            "longrope|dynamic", str(getattr(config, "rope_parameters", ""))
        )
        and config._attn_implementation in ("sdpa", "eager")
        and "position_ids" in inspect.signature(model.forward).parameters
        and check_model(model)
    )


@torch.no_grad()
def check_model(model: Any) -> bool:
    """Run a model on six mixed vectors, once; tell whether a row may be left-padded.

    Raises ValueError where the loop would be silently wrong: no mixtures taken, no
    cache returned, the input changed in place, or a cached continuation that differs
    from a full recompute (bidirectional attention, say).
    """
    if model in _CHECKED:
        return _CHECKED[model][0]
    name, table = type(model).__name__, model.get_input_embeddings()
    rows = table.weight.shape[0]
    try:
        ids = torch.arange(1, 13, device=table.weight.device) * rows // 13
        x = table(ids.view(2, 6)).mean(0)
        given, shorter = x.clone(), x[:4].clone()
        whole = model(inputs_embeds=given[None], use_cache=False).logits[0]
        alone = _continued(model, given[None], None)[0]
    except Exception as error:  # a model's own code: no common class
        raise ValueError(f"{name} cannot run the loop: {first_line(error)}") from None
    if not torch.equal(given, x):
        raise ValueError(f"{name} cannot run the loop: it changes its input in place")
    if (gap := _relative_gap(alone, whole[4:])) > TOLERANCE.get(x.dtype, HALF):
        raise ValueError(
            f"{name} cannot run the loop: its logits from a cache differ from those of "
            f"a full recompute by {gap:.2g} of their spread (does it look ahead?)"
        )
    fits, allowed = [], TOLERANCE.get(x.dtype, HALF)
    for share in (False, True):
        try:
            found = _continued(model, *left_pad([x, shorter]), share)
            gap = _relative_gap(found, torch.stack([whole[4:], whole[2:4]]))
            fits.append(gap <= allowed)
        except Exception:  # such rows are read one at a time then, or each whole
            fits.append(False)
    _CHECKED[model] = fits[0], fits[1]
    return _CHECKED[model][0]


def _continued(
    model: Any, x: Tensor, mask: Tensor | None, share: bool = False
) -> Tensor:
    """Compute logits (B,2,V) after the last but one and the last of x, by a cache."""
    first, mask = x[:, :-1], None if mask is None else mask[:, :-1]
    forward = CachedForward(model, first, mask, 1, share=share)
    return torch.stack([forward(first), forward(x[:, -1:])], dim=1)


def _relative_gap(a: Tensor, b: Tensor) -> float:
    """Compute the root mean square of a - b over the spread of b (...,V)."""
    b = b.float()
    return float((a.float() - b).norm() / (b - b.mean(-1, keepdim=True)).norm())


class CachedForward:
    """One batch and its growing cache: new embeddings (B,T,D) in, logits (B,V) out.

    Masks, and positions beside them, are made once for `steps` later positions; a call
    takes slices. Without a mask the model counts its own positions. The first call
    takes `embeds` themselves. Of them, a beginning that all rows share is read once;
    what pads shorter rows then stands behind it.
    hidden: keep the last layer's state (B,D) that the logits come from, as `hidden`.
    share: True or False, whatever the model; None: where `check_model` found it right.
    """

    def __init__(
        self,
        model: Any,
        embeds: Tensor,
        mask: Tensor | None,
        steps: int,
        hidden: bool = False,
        share: bool | None = None,
    ):
        self.model, self.length = model, 0
        self.shared = 0 if share is False else _shared_length(embeds, mask)
        if share is None and (self.shared < LEAST_SHARED or not _may_share(model)):
            self.shared = 0
        self.begin = 0  # of row 0
        self.cache: Any = None
        self.hidden: Tensor | None = None
        self.positions: Tensor | None = None
        self.masks: tuple[Tensor, Tensor] | None = None  # of the prompt, of later steps
        accepted = inspect.signature(model.forward).parameters
        self.options = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}
        if hidden:
            self.options["output_hidden_states"] = True
        if mask is not None:
            if self.shared:  # the rest of each row stands at the end
                self.begin = int((mask[0] == 0).sum())
                left = mask.sum(1, keepdim=True) - self.shared
                place = torch.arange(mask.shape[1], device=mask.device)
                mask = (place < self.shared) | (place >= mask.shape[1] - left)
            keys = torch.nn.functional.pad(mask.bool(), (0, steps), value=True)
            self.positions = (keys.long().cumsum(1) - 1).clamp_min(0)
            square = keys.new_ones(mask.shape[1], mask.shape[1])
            visible = keys[:, None, None, : len(square)] & square.tril()
            # a padding position sees itself: with nothing to see it would turn NaN
            visible |= square.tril().triu()
            pair = (visible[:, :, self.shared :], keys[:, None, None])
            prompt, later = (to_attention_mask(model, v, embeds.dtype) for v in pair)
            self.masks = prompt, later

    def __call__(self, x: Tensor) -> Tensor:
        """Read the next positions x (B,T,D) -> logits after the last of them (B,V)."""
        if self.shared and not self.length:
            self._read(x[:1, self.begin : self.begin + self.shared], {})
            self.cache.batch_repeat_interleave(len(x))
            self.length, x = self.shared, x[:, self.shared :]
        start, self.length = self.length, self.length + x.shape[1]
        if start and self.cache is None:
            raise ValueError("no key-value cache came back from the model")
        inputs: dict[str, Any] = {}
        if self.positions is not None:
            inputs["position_ids"] = self.positions[:, start : self.length]
        if self.masks is not None:
            later = start > self.shared
            inputs["attention_mask"] = self.masks[later][..., : self.length]
        return self._read(x, inputs)

    def _read(self, x: Tensor, inputs: dict[str, Any]) -> Tensor:
        inputs = self.options | inputs
        out = self.model(
            inputs_embeds=x, past_key_values=self.cache, use_cache=True, **inputs
        )
        self.cache = getattr(out, "past_key_values", None)
        if "output_hidden_states" in self.options:
            self.hidden = out.hidden_states[-1][:, -1]
        return out.logits[:, -1]


def _shared_length(embeds: Tensor, mask: Tensor | None) -> int:
    """Count the vectors that all rows begin with, of each row one left over."""
    rows, longest, width = embeds.shape
    if rows == 1 or embeds.is_meta:  # no data to compare
        return 0
    lengths = torch.full((rows,), longest) if mask is None else mask.sum(1).long()
    least = int(lengths.min()) - 1
    begins = (longest - lengths).to(embeds.device)
    place = begins[:, None] + torch.arange(least, device=embeds.device)
    start = embeds.gather(1, place[..., None].expand(-1, -1, width))
    alike = (start == start[:1]).all(-1).all(0)  # of none, where least is 0
    return int(alike.long().cumprod(0).sum())


def _may_share(model: Any) -> bool:
    return supports_left_padding(model) and _CHECKED[model][1]


def to_attention_mask(model: Any, visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Turn a boolean mask into what the model's attention takes: that, or scores."""
    if model.config._attn_implementation == "sdpa":
        return visible
    lowest = torch.finfo(dtype).min
    return torch.zeros_like(visible, dtype=dtype).masked_fill(~visible, lowest)


@torch.no_grad()
def next_logits(
    lm: LM,
    inputs_embeds: Tensor | Sequence[Tensor],
    attention_mask: Tensor | None = None,
    batch_size: int = 64,
) -> Tensor:
    """Compute the next token's logits after each sequence of embeddings: (B,V) float32.

    inputs_embeds: (B,T,D) with a left-padded mask (B,T), or a list of (T,D).
    """
    embeds, mask = prepare_inputs(lm, inputs_embeds, attention_mask, 1)
    batches = split_batches(lm, embeds, mask, batch_size)
    logits = [CachedForward(lm.model, x, m, 0)(x).float() for _, x, m in batches]
    return torch.cat(logits)
