"""R7: is what is read beyond the top token the same in every model?

    read_gains         02_beyond_top.csv of every set, by bin of p_max
    mean_gains         the mean gain of each set, rule and bin
    paired             two sets' gains on the same prompts, both in one bin
    pair_differences   R7's cells: pair of public sets, rule and bin -> Estimate
    estimates_table    either of them as a frame
    by_size            the mean gains in the wide bin, smallest model first

gain_bits is JS(P(.|top), q) - JS(P(.|m), q) at step 1, in bits: how much
nearer a concept token m leads to q, the mixture of what follows its tokens, than its
top token alone. Intervals draw whole templates; n counts prompts.
"""

from itertools import combinations

import pandas as pd

from experiments.across_models.results import Folders, read_results
from experiments.stats import Estimate, bootstrap, clustered

RULES = ("raw, k 20", "as written")
BINS = {"p_max .3-.5": (0.3, 0.5), "p_max .5-.8": (0.5, 0.8)}
WIDEST = "p_max .3-.8"
BINS |= {WIDEST: (0.3, 0.8)}  # upper ends are in, and .3
COLUMNS = ("prompt", "template", "p_max", "rule", "gain_bits")
NO_PAIR = "it compares public models on the same prompts, and fewer than two were run"
Cell = tuple[str, str, str]  # set, or pair of sets; rule; bin


def read_gains(folders: Folders | None = None) -> pd.DataFrame:
    """Read every set's gains: set, prompt, template, p_max, rule, gain_bits, bin.

    A prompt has a row for each bin it lies in; those outside are left out.
    ValueError for a rule that R7 does not know and a prompt that stands twice.
    """
    frame = read_results("02_beyond_top", COLUMNS, ("p_max", "gain_bits"), folders)
    unknown = {*frame["rule"]} - {*RULES}
    if unknown:
        raise ValueError(f"rule {min(unknown)!r}: expected one of {', '.join(RULES)}")
    twice = frame[frame.duplicated(["set", "prompt", "rule"])]
    if len(twice):
        where = ", ".join(twice.iloc[0][["set", "rule", "prompt"]])
        raise ValueError(f"{where}: the prompt stands twice in 02_beyond_top.csv")
    inside = frame.assign(bin=frame["p_max"].map(_bin_names)).explode("bin")
    return inside.dropna(subset=["bin"]).reset_index(drop=True)


def _bin_names(p_max: float) -> list[str]:
    """Name the bins that hold a probability: a narrow one and the wide one, or none."""
    return [
        name for name, (a, b) in BINS.items() if a < p_max <= b or p_max == a == 0.3
    ]


def mean_gains(gains: pd.DataFrame, seed: int = 0) -> dict[Cell, Estimate]:
    """Estimate the mean gain of each set, rule and bin, over all its prompts there."""
    groups = gains.groupby(["set", "rule", "bin"], sort=False)
    return {
        key: clustered(bootstrap, part["template"], part["gain_bits"], seed=seed)
        for key, part in groups
    }


def paired(gains: pd.DataFrame, one: str, other: str) -> pd.DataFrame:
    """Pair two sets by prompt and rule, where both models have it in the same bin.

    -> rule, bin, prompt, template, gain_one, gain_other.
    """
    keys = ["rule", "bin", "prompt", "template"]
    sides = (
        gains[gains["set"] == name].set_index(keys)["gain_bits"].rename(f"gain_{side}")
        for name, side in ((one, "one"), (other, "other"))
    )
    return pd.concat(sides, axis=1, join="inner").reset_index()


def pair_differences(gains: pd.DataFrame, seed: int = 0) -> dict[Cell, Estimate]:
    """Estimate the one model's gain minus the other's for each pair, rule and bin.

    Sets other than mini, whose prompts are of its own world. A pair's name has the
    earlier set of models/weights.csv first.
    """
    found = {}
    public = [name for name in dict.fromkeys(gains["set"]) if name != "mini"]
    for one, other in combinations(public, 2):
        groups = paired(gains, one, other).groupby(["rule", "bin"], sort=False)
        for key, part in groups:
            won = part["gain_one"] - part["gain_other"]
            estimate = clustered(bootstrap, part["template"], won, seed=seed)
            found[f"{one} minus {other}", *key] = estimate
    return found


def estimates_table(estimates: dict[Cell, Estimate], first: str) -> pd.DataFrame:
    """Make a frame of estimates: `first`, rule, bin, value, low, high, n."""
    rows = [
        {first: name, "rule": rule, "bin": inside} | e.columns()
        for (name, rule, inside), e in estimates.items()
    ]
    heads = [first, "rule", "bin", "value", "low", "high", "n"]
    frame = pd.DataFrame(rows, columns=heads)
    order = {word: k for k, word in enumerate([*RULES, *BINS])}
    how = {"key": lambda column: column.map(order), "ignore_index": True}
    return frame.sort_values(["rule", "bin"], kind="stable", **how)


def by_size(means: dict[Cell, Estimate], sizes: dict[str, int]) -> pd.DataFrame:
    """List the mean gains in the wide bin, smallest model first.

    sizes: parameters of each set's model, named with it; sets without are left out.
    -> model, rule, parameters, value, low, high, n.
    """
    rows = [
        {"model": f"{name}, {_millions(sizes[name])}", "rule": rule}
        | {"parameters": sizes[name]}
        | e.columns()
        for (name, rule, inside), e in means.items()
        if name in sizes and inside == WIDEST
    ]
    heads = ["model", "rule", "parameters", "value", "low", "high", "n"]
    frame = pd.DataFrame(rows, columns=heads)
    return frame.sort_values("parameters", kind="stable", ignore_index=True)


def _millions(count: int) -> str:
    """Write a number of parameters: 0.83 M, 106 M, 1,310 M."""
    millions = count / 1e6
    return f"{millions:,.0f} M" if millions >= 10 else f"{millions:.2g} M"
