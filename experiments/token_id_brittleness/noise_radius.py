"""What is read off disturbed prompts: rates, radii, and whether they fall in a step.

    rates            shares with their intervals, for tables and figures
    radius           the dose of noise that halves the clean rate
    radius_ratio     one kind's radius over another's
    share_of_clean   a disturbed rate over the clean one
    step_share       the largest drop as a share of the whole drop
    parts            the parts of claim I4

Frames come from brittleness.py: one row an item and disturbance. Intervals draw items
again, so that an item's whole curve is kept together.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from experiments import stats


def rate_table(
    frame: pd.DataFrame, by: list[str], value="followed", seed=0
) -> pd.DataFrame:
    """Mean of a column over items with its 95 % interval, for each group of `by`."""
    found = []
    for key, group in frame.groupby(by, sort=False):
        e = stats.bootstrap(group[value].astype(float).tolist(), seed=seed)
        found.append((*key, e.value, e.low, e.high, e.n))
    return pd.DataFrame(found, columns=[*by, "value", "low", "high", "n"])


def noise_radius(frame: pd.DataFrame, kind: str, seed: int = 0) -> stats.Estimate:
    """The dose that halves the clean rate; the largest dose where none does."""
    doses, table = _table(frame, kind)
    return _over_items(table, lambda t: _half_dose(doses, t), seed)


def noise_radius_ratio(
    frame: pd.DataFrame, kind="markers", ordinary="instruction words", seed: int = 0
) -> stats.Estimate:
    """One kind's radius over another's: below 1, it stands less noise."""
    doses, table = _table(frame, kind)
    both = np.stack([table, _table(frame, ordinary)[1]], axis=1)

    def ratio(curves):
        first, second = (_half_dose(doses, curves[..., k, :]) for k in (0, 1))
        return first / second

    return _over_items(both, ratio, seed)


def share_of_clean(
    frame: pd.DataFrame, column: str, clean, other, kind="markers", seed: int = 0
) -> stats.Estimate:
    """The rate where column == other over the rate where it == clean, item by item."""
    table = frame[frame["kind"] == kind].pivot(
        index="item", columns=column, values="followed"
    )
    a, b = (table[value].to_numpy(float) for value in (other, clean))
    return stats.ratio(a, b, seed=seed)


def step_share(frame: pd.DataFrame, kind="markers", seed: int = 0) -> stats.Estimate:
    """The largest drop between neighbouring doses, as a share of the whole drop.

    1 is a step. Raises ValueError where the rate does not fall.
    """
    _, table = _table(frame, kind)
    if table[:, 0].mean() <= table[:, -1].mean():
        raise ValueError(f"noise on {kind} does not lower the rate: no drop to share")

    def share(curve):
        whole = curve[..., 0] - curve[..., -1]
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(whole > 0, -np.diff(curve).min(-1) / whole, np.nan)

    return _over_items(table, share, seed)


def noise_estimates(doses: pd.DataFrame, edited: pd.DataFrame, seed: int = 0) -> dict:
    """I4's parts: format@dose, format_small, radius_ratio, step_share, ...

    step_share is missing where noise on the markers does not lower the rate at all.
    Beside them, unjudged: the radius of each kind and every edit as a share of clean.
    """
    curve = rate_table(doses[doses["kind"] == "markers"], ["dose"], seed=seed)
    out = {
        f"format@{r.dose:g}": stats.Estimate(r.value, r.low, r.high, r.n, seed)
        for r in curve.itertuples()
    }
    if out["format@0"].value == 0:
        return out  # nothing to take a share of
    out["format_small"] = share_of_clean(doses, "dose", 0.0, 0.25, seed=seed)
    out["radius_ratio"] = noise_radius_ratio(doses, seed=seed)
    for kind in dict.fromkeys(doses["kind"]):
        out[f"radius_{kind.replace(' ', '_')}"] = noise_radius(doses, kind, seed)
    for kind, edit in dict.fromkeys(zip(edited["kind"], edited["edit"])):
        if edit != "as it is":
            name = f"{kind} {edit}".replace(" ", "_").rstrip("%")
            out[name] = share_of_clean(edited, "edit", "as it is", edit, kind, seed)
    out["format_paraphrased"] = out["markers_in_plain_words"]
    try:
        out["step_share"] = step_share(doses, seed=seed)
    except ValueError:
        pass
    return out


def _table(frame, kind) -> tuple[np.ndarray, np.ndarray]:
    """Doses (N,), and whether each item followed at each (items, N)."""
    table = frame[frame["kind"] == kind].pivot(
        index="item", columns="dose", values="followed"
    )
    return table.columns.to_numpy(float), table.to_numpy(float)


def _over_items(table, statistic, seed) -> stats.Estimate:
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
