"""Ways of reading a concept token back.

    read_in_frame         what a model answers with a concept token in a frame's slot
    Reading               what came back, decoded whole and sliced
    nearest_token         the write-up's fourth way (3.2): the nearest embedding
    frame_table           the frames, for reading; available_ways: those a model has
    unavailable_reason    why a frame cannot be tried on a model; unavailable_cells: all
    decode_rows, first_token_probs   the steps of reading, one by one

The frames (experiments.prompts.FRAMES) are the write-up's instruction, completion and
direct, and two from the literature, patchscopes and selfie. Every function takes a
batch x: concept tokens (B,T,D), (B,D) or a list of (T_i,D), or texts (the ceiling: the
same content in words).

Slicing: the original scripts decoded `output[prompt_len:]`, which drops the first
prompt_len *new* tokens where the prompt was given as embeddings (original/README.md,
its author's own find). `Reading.sliced` is what that leaves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from experiments.frames import fill_frame
from experiments.metrics import nearest_rows
from experiments.prompts import FRAMES
from experiments.scoring import continue_by_length
from experiments.translation.stimuli import has_chat
from helpers.batching import next_logits

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from helpers.models import LM

BATCH = 256  # rows a forward pass


@dataclass(frozen=True, eq=False)
class Reading:
    """What was read: new token ids and the prompt's length in tokens, one a row."""

    ids: list[list[int]]
    prompt_lengths: list[int]
    tokenizer: PreTrainedTokenizerBase

    @property
    def texts(self) -> list[str]:
        """The new text, whole."""
        return self.tokenizer.batch_decode(self.ids, skip_special_tokens=True)

    @property
    def sliced(self) -> list[str]:
        """The same ids after `[prompt_len:]`, as the original scripts decoded."""
        kept = [ids[n:] for ids, n in zip(self.ids, self.prompt_lengths)]
        return self.tokenizer.batch_decode(kept, skip_special_tokens=True)


def read_in_frame(lm: LM, way: str, x, max_new_tokens: int = 50) -> Reading:
    """Continue greedily after a way's frame with x in its slot, one row of x a row."""
    return decode_rows(lm, fill_frame(lm, way, x), max_new_tokens)


def nearest_token(lm: LM, x: Tensor, metric: str = "cosine") -> Tensor:
    """Find the token whose embedding is nearest: concepts (...,D) -> ids (...).

    metric: dot, cosine, l2 or centred (cosine after taking off the mean embedding).
    """
    return nearest_rows(x, lm.embed[: lm.used], metric)


def frame_table() -> pd.DataFrame:
    """The frames by name: text, whether one needs a chat template, and source."""
    return pd.DataFrame(FRAMES.values()).set_index("name")


def available_ways(lm: LM) -> list[str]:
    """List the frames that this model can be asked in."""
    return [way for way in FRAMES if not unavailable_reason(lm, way)]


def unavailable_reason(lm: LM, way: str) -> str:
    """Say why a way cannot be tried on this model; "" when it can."""
    if FRAMES[way].chat and not has_chat(lm):
        return f"the {way} frame needs a chat template and this model has none"
    return ""


def unavailable_cells(lms: dict[str, LM]) -> dict[str, str]:
    """Reasons of the frames that cannot be tried: "model, way" -> reason."""
    return {
        f"{name}, {way}": reason
        for name, lm in lms.items()
        for way in FRAMES
        if (reason := unavailable_reason(lm, way))
    }


def decode_rows(lm: LM, rows: list[Tensor], max_new_tokens: int = 50) -> Reading:
    """Continue rows of embeddings (L_i,D) greedily, in batches of like length."""
    how = {"return_ids": True, "batch_size": BATCH}
    ids = continue_by_length(lm, rows, max_new_tokens, **how)
    return Reading(ids, [len(row) for row in rows], lm.tokenizer)


def first_token_probs(lm: LM, way: str, x) -> Tensor:
    """Distribution (B,V) of the first token a way answers with."""
    return next_logits(lm, fill_frame(lm, way, x), batch_size=BATCH).softmax(-1)
