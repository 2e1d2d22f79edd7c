"""Which outputs of the original experiments were empty by arithmetic (claim I0).

    original_experiments   original/experiments.csv as a frame
    original_tokenizers    which of the loaded models have the original's tokenizers
    cut_table              what the cut leaves of each experiment's new tokens
    cut_summary            the same by model and frame, for a reader
    cut_points             the same by length, for the figure
    cut_estimates          the parts of claim I0

The original scripts took `output[prompt_length:]` of a `generate` call that returns new
tokens only (its author's find, original/README.md). With `vectors` positions in the
prompt and `new_tokens` allowed, at most new_tokens - vectors of them can be printed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from experiments.stats import Estimate
from harness.files import ROOT

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from helpers.models import LM

ORIGINAL = ROOT / "original"
CONSOLE = "Python-output"  # in the names of the files that hold texts whole
# Model -> its ordinary tokens, and one special token with its id.
VOCABULARIES = {
    "Qwen/Qwen2.5-1.5B-Instruct": (151643, "<|im_end|>", 151645),
    "openai-community/gpt2": (50257, "<|endoftext|>", 50256),
}


def original_experiments() -> pd.DataFrame:
    """Read original/experiments.csv; `pieces` parsed, an empty `printed` kept as ""."""
    frame = pd.read_csv(ORIGINAL / "experiments.csv", keep_default_na=False)
    counts = pd.to_numeric(frame["printed_tokens"]).astype("Int64")
    pieces = frame["pieces"].map(json.loads)
    return frame.assign(pieces=pieces, printed_tokens=counts)


def original_tokenizers(lms: Iterable[LM]) -> dict[str, PreTrainedTokenizerBase]:
    """Pick the original's tokenizers from loaded models -> tokenizer by model id.

    A tokenizer counts as the original's where it has as many ordinary tokens and the
    same id for a special one, as those of the Qwen2.5 family do.
    """
    found = {}
    for tokenizer in (lm.tokenizer for lm in lms if lm.tokenizer is not None):
        for model, (size, special, number) in VOCABULARIES.items():
            same_size = tokenizer.vocab_size == size
            if same_size and tokenizer.convert_tokens_to_ids(special) == number:
                found[model] = tokenizer
    return found


def count_vectors(tokenizer: PreTrainedTokenizerBase, pieces: list[str | int]) -> int:
    """Count the positions of a prompt: the tokens of its texts, and its vectors."""
    return sum(
        piece if isinstance(piece, int) else len(tokenizer(piece)["input_ids"])
        for piece in pieces
    )


def cut_table(tokenizers: dict[str, PreTrainedTokenizerBase] | None = None):
    """Compute what the cut leaves of each experiment -> frame, one row an experiment.

    tokenizers: model id -> its tokenizer, to count prompts and printed texts with;
    where one is missing the committed lengths stand. Columns: id, model, frame,
    vectors, new_tokens, left (0 where nothing can remain), forced_empty, printed,
    printed_empty, printed_tokens (missing where the text is not known), saved_whole.
    """
    frame = original_experiments()
    for model, tokenizer in (tokenizers or {}).items():
        own = frame["model"] == model
        counted = [count_vectors(tokenizer, p) for p in frame.loc[own, "pieces"]]
        frame.loc[own, "vectors"] = counted
        own &= frame["printed_tokens"].notna()
        counted = [count_vectors(tokenizer, [t]) for t in frame.loc[own, "printed"]]
        frame.loc[own, "printed_tokens"] = counted
    left = (frame["new_tokens"] - frame["vectors"]).clip(lower=0)
    text = frame["printed"] != ""
    whole = text & frame["read_from"].str.contains(CONSOLE)
    kept = ["id", "model", "frame", "vectors", "new_tokens", "printed"]
    return frame[[*kept, "printed_tokens"]].assign(
        left=left, forced_empty=left == 0, printed_empty=~text, saved_whole=whole
    )


def cut_summary(table: pd.DataFrame) -> pd.DataFrame:
    """Sum up `cut_table`, one row for all experiments of one model and frame.

    Of what was printed the first text is shown.
    """
    found = []
    for (model, frame), rows in table.groupby(["model", "frame"], sort=False):
        text = " ".join(rows["printed"].iloc[0].split())[:40] or "nothing"
        counts = [_range(rows[k]) for k in ("vectors", "new_tokens", "left")]
        found.append((model.split("/")[1], frame, len(rows), *counts, text))
    columns = ["model", "frame", "experiments", "vectors in the prompt"]
    columns += ["new tokens allowed", "left after the cut", "printed (the first)"]
    return pd.DataFrame(found, columns=columns)


def cut_points(table: pd.DataFrame) -> pd.DataFrame:
    """List the points of `cut_table` for the figure, each length and outcome once.

    Columns: printed (nothing or a text), both lengths, experiments (how many), names:
    at the middle one of the points in a row those of all of them, else "".
    """
    printed = table["printed_empty"].map(
        {True: "printed nothing", False: "printed a text"}
    )
    frame = table.assign(printed=printed, name=table["id"].map(_name))
    found = []
    for key, row in frame.groupby(["printed", "new_tokens"]):
        counts = row["vectors"].value_counts().sort_index()
        names = [*row.sort_values("vectors", kind="stable")["name"].unique()]
        lines = [", ".join(names[i : i + 2]) for i in range(0, len(names), 2)]
        for i, (vectors, many) in enumerate(counts.items()):
            middle = i == len(counts) // 2
            found.append((*key, vectors, many, ",\n".join(lines) if middle else ""))
    columns = ["printed", "new tokens allowed", "vectors in the prompt"]
    return pd.DataFrame(found, columns=[*columns, "experiments", "names"])


def cut_estimates(table: pd.DataFrame) -> dict[str, Estimate]:
    """I0's parts from `cut_table`: empty_forced, text_forced, length_explained."""
    empty, whole = table["printed_empty"], table[table["saved_whole"]]
    answers = {
        "empty_forced": table.loc[empty, "forced_empty"],
        "text_forced": table.loc[~empty, "forced_empty"],
        "length_explained": whole["printed_tokens"] == whole["left"],
    }
    return {
        part: Estimate.exact(float(yes.mean()), len(yes))
        for part, yes in answers.items()
    }


def _name(experiment: str) -> str:
    """Shorten an id of the original's main scripts to model and frame: the prompt is
    left out."""
    words = experiment.split("-")
    return " ".join(words[:2] if words[0] in ("qwen", "gpt2") else words)


def _range(values: pd.Series) -> str:
    low, high = values.min(), values.max()
    return f"{low}" if low == high else f"{low} to {high}"
