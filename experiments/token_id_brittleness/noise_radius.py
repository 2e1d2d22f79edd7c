"""Rates, noise radii, and whether a rate falls in a step, from perturbed prompts.

    rate_table           means with their intervals, for tables and figures
    dose_curves          rates and divergences over the dose, for the figure
    noise_radius         the dose of noise that halves the clean rate
    noise_radius_ratio   the radius of markers over that of the template's words
    radius_censored      whether no dose tested halves the rate
    radius_table         radii for a reader, ">=" where no dose halves the rate
    share_of_clean       a perturbed rate over the clean one
    step_share           the largest drop as a share of the whole drop
    noise_estimates      the parts of claim I4

Frames come from dose_response.py: one row an item and perturbation. Intervals draw
items again, so that an item's whole curve is kept together.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import numpy as np
import pandas as pd

from experiments import stats
from experiments.stats import Estimate

UNSEEN_PARAPHRASE = (
    "the mini corpus holds no markers written in plain words, so a mini model never "
    "learned to read them"
)
LABELS = {"followed": "format followed", "kl": "KL of the first token (nats)"}


def rate_table(
    frame: pd.DataFrame, by: list[str], column: str = "followed", seed: int = 0
) -> pd.DataFrame:
    """Average a column over items, with its 95 % interval, for each group of `by`."""
    found = []
    for key, values in frame.groupby(by, sort=False)[column]:
        e = stats.bootstrap(values, seed=seed)
        found.append((*key, e.value, e.low, e.high, e.n))
    return pd.DataFrame(found, columns=[*by, "value", "low", "high", "n"])


def dose_curves(doses: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """`rate_table` by kind and dose, of what LABELS names, one below the other."""
    tables = [
        rate_table(doses, ["kind", "dose"], column, seed).assign(measure=label)
        for column, label in LABELS.items()
    ]
    return pd.concat(tables, ignore_index=True)


def noise_radius(frame: pd.DataFrame, kind: str, seed: int = 0) -> Estimate:
    """Estimate the dose that halves the clean rate; the largest where none does."""
    doses, table = _curves(frame, kind)
    return _over_items(table, lambda t: _half_dose(doses, t), seed)


def noise_radius_ratio(frame: pd.DataFrame, seed: int = 0) -> Estimate:
    """Estimate the markers' radius over that of the template's words.

    Below 1, markers stand less noise. Words of the instruction would be no control:
    they carry the answer. A radius that no dose reaches counts as the largest dose.
    """
    doses, table = _curves(frame, "markers")
    both = np.stack([table, _curves(frame, "template words")[1]], axis=1)

    def ratio(curves):
        first, second = (_half_dose(doses, curves[..., k, :]) for k in (0, 1))
        return first / second

    return _over_items(both, ratio, seed)


def radius_censored(frame: pd.DataFrame, kind: str) -> bool:
    """Tell whether the rate stays above half of the clean one at every dose."""
    curve = _curves(frame, kind)[1].mean(0)
    return bool((curve > curve[0] / 2).all())


def radius_table(frame: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """List the radius of each kind with its interval; ">=" for what no dose reached."""
    found, largest = [], frame["dose"].max()
    for kind in dict.fromkeys(frame["kind"]) if largest else ():
        e = noise_radius(frame, kind, seed)
        texts = [
            f"{'>= ' * bool(at_end)}{x:.2f}"
            for x, at_end in (
                (e.value, radius_censored(frame, kind)),
                (e.low, e.low >= largest),
                (e.high, e.high >= largest),
            )
        ]
        found.append((kind, texts[0], f"{texts[1]} to {texts[2]}", e.n))
    columns = ["noise on", "dose that halves the rate (RMS)", "95 % interval", "n"]
    return pd.DataFrame(found, columns=columns)


def share_of_clean(
    frame: pd.DataFrame,
    column: str,
    clean: float | str,
    other: float | str,
    kind: str = "markers",
    seed: int = 0,
) -> Estimate:
    """Estimate the rate where column == other over that where it == clean."""
    table = _by_item(frame, kind, column)
    a, b = (table[value].to_numpy(float) for value in (other, clean))
    return stats.ratio(a, b, seed=seed)


def step_share(frame: pd.DataFrame, seed: int = 0) -> Estimate:
    """Estimate the largest drop between neighbouring doses, as a share of the whole.

    1 is a step. Raises ValueError where the rate does not fall.
    """
    _, table = _curves(frame, "markers")
    if table[:, 0].mean() <= table[:, -1].mean():
        raise ValueError("noise on markers does not lower the rate: no drop to share")

    def share(curve):
        whole = curve[..., 0] - curve[..., -1]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(whole > 0, -np.diff(curve).min(-1) / whole, np.nan)

    return _over_items(table, share, seed)


def noise_estimates(
    doses: pd.DataFrame, edited: pd.DataFrame, seed: int = 0
) -> dict[str, Estimate]:
    """I4's parts: format@dose, format_small, radius_ratio, step_share, ...

    step_share is missing where noise on the markers does not lower the rate at all.
    Beside them, unjudged: of each kind the radius, and whether it is censored (1: no
    dose halves the rate, and the largest stands); every edit as a share of clean.
    """
    markers = doses[doses["kind"] == "markers"].groupby("dose", sort=False)
    out = {
        f"format@{dose:g}": stats.bootstrap(followed, seed=seed)
        for dose, followed in markers["followed"]
    }
    if out["format@0"].value == 0 or len(out) == 1:
        return out  # nothing to take a share of, or nothing was disturbed
    out["format_small"] = share_of_clean(doses, "dose", 0.0, 0.25, seed=seed)
    out["radius_ratio"] = noise_radius_ratio(doses, seed=seed)
    for kind in dict.fromkeys(doses["kind"]):
        name, found = kind.replace(" ", "_"), noise_radius(doses, kind, seed)
        out[f"radius_{name}"] = found
        censored = radius_censored(doses, kind)
        out[f"radius_censored_{name}"] = Estimate.exact(censored, found.n)
    out["largest_dose"] = Estimate.exact(doses["dose"].max(), found.n)
    for kind, edit in dict.fromkeys(zip(edited["kind"], edited["edit"])):
        if edit != "as it is":
            name = f"{kind} {edit}".replace(" ", "_").rstrip("%")
            out[name] = share_of_clean(edited, "edit", "as it is", edit, kind, seed)
    for part, edit in (("exchanged", "exchanged"), ("paraphrased", "in_plain_words")):
        out[f"format_{part}"] = out.pop(f"markers_{edit}")
    with suppress(ValueError):  # no drop to share
        out["step_share"] = step_share(doses, seed=seed)
    return out


def _by_item(frame: pd.DataFrame, kind: str, column: str) -> pd.DataFrame:
    """Whether each item followed, items down and the values of a column across."""
    rows = frame[frame["kind"] == kind]
    return rows.pivot(index="item", columns=column, values="followed")


def _curves(frame: pd.DataFrame, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Doses (N,), and whether each item followed at each (items, N)."""
    table = _by_item(frame, kind, "dose")
    return table.columns.to_numpy(float), table.to_numpy(float)


def _over_items(table: np.ndarray, statistic: Callable, seed: int) -> Estimate:
    """Bootstrap of a statistic of the mean over items of table (items, ...)."""

    def of_items(i):  # item numbers (..., n), so that an item's curve stays whole
        return statistic(table[i.astype(int)].mean(axis=i.ndim - 1))

    return stats.bootstrap(range(len(table)), of_items, seed=seed)


def _half_dose(doses: np.ndarray, curve: np.ndarray) -> np.ndarray:
    """Where curve (..., N) first falls to half its start, by straight lines."""
    half = curve[..., :1] / 2
    below = curve <= half
    right = np.where(below.any(-1), below.argmax(-1), len(doses) - 1)[..., None]
    left = np.maximum(right - 1, 0)
    high, low = (np.take_along_axis(curve, i, -1) for i in (left, right))
    with np.errstate(divide="ignore", invalid="ignore"):
        part = np.nan_to_num(np.clip((high - half) / (high - low), 0, 1))
    dose = doses[left] + (doses[right] - doses[left]) * part
    return np.where(below.any(-1), dose[..., 0], doses[-1])
