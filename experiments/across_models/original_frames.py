"""The original's frames on every set: is the content said, and what does the cut leave?

    read_shares    02_original_runs.csv of every set, frames named and in order
    shares_table   one row a frame and kind, one column a set
    name_panels    of how many samples each set's shares are

The shares are notebook 02's: after concept tokens, decoded whole and after the
original's cut; after the content as text (ceiling) and another prompt's concept tokens
(floor). Where no answer is right, of the tag alone and of noise, any text counts.
"""

import pandas as pd

from experiments.across_models.results import Folders, read_results

FRAMES = {  # of original/experiments.csv -> as the figure calls them, in its order
    "qwen-instruction-france": "instruction, France",
    "qwen-instruction-sum": "instruction, 2 plus 2",
    "qwen-completion-france": "completion, France",
    "method-1": "Method 1, France",
    "method-2": "Method 2, France",
    "method-3": "Method 3, France",
    "gpt2-instruction-france": "GPT-2's instruction, France",
    "gpt2-completion-france": "GPT-2's completion, France",
    "gpt2-completion-sum": "GPT-2's completion, 2 plus 2",
    "tag-alone": "assistant tag alone: any text",
    "noise-between": "noise between words: any text",
    "noise-five": "noise alone: any text",
}
KINDS = {  # of notebook 02's figure -> as this one calls them
    "concept tokens, whole": "decoded whole",
    "any text, whole": "decoded whole",
    "concept tokens, cut": "after the original's cut",
    "any text, cut": "after the original's cut",
    "content as text (ceiling)": "content as text (ceiling)",
    "another prompt's (floor)": "another prompt's (floor)",
}
COLUMNS = ("run", "what", "value", "low", "high", "n")


def read_shares(folders: Folders | None = None) -> pd.DataFrame:
    """Read every set's shares, frames in order: set, frame, kind, value, low, high, n.

    Other runs and other kinds of the csv, such as positions added twice, are left out.
    """
    frame = read_results("02_original_runs", COLUMNS, COLUMNS[2:], folders)
    frame = frame.assign(frame=frame["run"].map(FRAMES), kind=frame["what"].map(KINDS))
    frame = frame.dropna(subset=["frame", "kind"])
    words = [*dict.fromkeys(frame["set"]), *FRAMES.values(), *KINDS.values()]
    place = {word: k for k, word in enumerate(words)}
    keys = ["set", "frame", "kind"]
    frame = frame.sort_values(keys, key=lambda c: c.map(place), ignore_index=True)
    return frame[[*keys, "value", "low", "high", "n"]]


def shares_table(shares: pd.DataFrame) -> pd.DataFrame:
    """Set the shares side by side, with n: a row a frame and kind, a column a set."""
    text = [
        f"{r.value:.2f} [{r.low:.2f}, {r.high:.2f}], n = {r.n:.0f}"
        for r in shares.itertuples()
    ]
    rows = shares.assign(text=text).groupby(["frame", "kind", "set"], sort=False)
    return rows["text"].first().unstack("set", sort=False).fillna("")


def name_panels(shares: pd.DataFrame) -> pd.DataFrame:
    """Add the column `panel`: the set, and of how many samples its shares are.

    "smollm2, n = 64", or "n = 32 to 64" where they differ.
    """
    ends = shares.groupby("set")["n"].agg(["min", "max"])
    said = {
        name: " to ".join(dict.fromkeys((f"{low:.0f}", f"{high:.0f}")))
        for name, low, high in ends.itertuples()
    }
    return shares.assign(panel=[f"{name}, n = {said[name]}" for name in shares["set"]])
