"""Which outputs of the original experiments were empty by arithmetic.

    original_experiments   original/experiments.csv as a frame
    count_vectors          the length of a prompt, counted with a tokenizer
    cut_table              what the cut leaves of each experiment's new tokens

The original scripts took `output[prompt_length:]` of a `generate` call that returns new
tokens only (its author's find, original/README.md). With `vectors` positions in the
prompt and `new_tokens` allowed, at most new_tokens - vectors of them can be printed.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pandas as pd

from harness.files import ROOT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ORIGINAL = ROOT / "original"


def original_experiments() -> pd.DataFrame:
    """Read original/experiments.csv; `pieces` parsed, an empty `printed` kept as ""."""
    frame = pd.read_csv(ORIGINAL / "experiments.csv", keep_default_na=False)
    return frame.assign(pieces=frame["pieces"].map(json.loads))


def count_vectors(tokenizer: PreTrainedTokenizerBase, pieces: list[str | int]) -> int:
    """Count the positions of a prompt: the tokens of its texts, and its vectors."""
    return sum(
        piece if isinstance(piece, int) else len(tokenizer(piece)["input_ids"])
        for piece in pieces
    )


def cut_table(tokenizers: dict[str, PreTrainedTokenizerBase] | None = None):
    """Compute what the cut leaves of each experiment -> frame, one row an experiment.

    tokenizers: model id -> its tokenizer, to count prompt lengths with; where one is
    missing the committed length stands. Columns: id, frame, vectors, new_tokens, left
    (0 where nothing can remain), forced_empty, printed_empty.
    """
    frame = original_experiments()
    for model, tokenizer in (tokenizers or {}).items():
        own = frame["model"] == model
        counted = [count_vectors(tokenizer, p) for p in frame.loc[own, "pieces"]]
        frame.loc[own, "vectors"] = counted
    left = (frame["new_tokens"] - frame["vectors"]).clip(lower=0)
    return frame[["id", "model", "frame", "vectors", "new_tokens"]].assign(
        left=left, forced_empty=left == 0, printed_empty=frame["printed"] == ""
    )
