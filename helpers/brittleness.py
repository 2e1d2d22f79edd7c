"""How brittle are the markers of a chat prompt, and ordinary tokens? (5.2, claim I4)

    dose_response      noise of growing size on one kind of token
    edits              mixing, exchanging, deleting, rewriting
    rates              shares with their intervals, for tables and figures
    radius, radius_ratio, step_share    what is read off the dose-response

An answer follows the format when it ends, by an end token or a line break, within the
tokens allowed, and says the gold answer before that.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from . import disturbing as d
from . import stats
from .decode import continue_from
from .forward import next_logits

if TYPE_CHECKING:
    from .models import LM

DOSES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)  # x the RMS of the row itself
MIXES = (0.25, 0.5, 0.75, 1.0)  # share of another token's row
NEW, BATCH = 24, 128  # tokens allowed for an answer; prompts a batch


def dose_response(
    lm: LM, parts: list[d.Parts], doses=DOSES, kinds=d.KINDS, seed: int = 0
) -> pd.DataFrame:
    """Noise on one kind of token, in one direction a prompt, at every dose.

    Rows: kind, dose, item, followed, ended, kl (of the first new token, from the clean
    distribution to the disturbed one, nats), p_end (that it is an end token).
    """
    respond, frames = _responder(lm, parts), []
    for kind in kinds:
        for dose in doses:
            rows = [d.noised(lm, p, kind, dose, [seed, i]) for i, p in enumerate(parts)]
            frames.append(respond(rows).assign(kind=kind, dose=dose))
    return pd.concat(frames, ignore_index=True)


def edits(
    lm: LM, parts: list[d.Parts], mixes=MIXES, kinds=d.KINDS[:2], seed: int = 0
) -> pd.DataFrame:
    """Every other disturbance: rows as above, with `edit` in place of `dose`.

    Markers alone are also written in plain words and spelled out as characters.
    """
    respond, frames = _responder(lm, parts), []

    def run(kind, edit, rows):
        frames.append(respond(rows).assign(kind=kind, edit=edit))

    for kind in kinds:
        run(kind, "as it is", [d.as_is(lm, p) for p in parts])
        for share in mixes:
            rows = [d.mixed(lm, p, kind, share, [seed, i]) for i, p in enumerate(parts)]
            run(kind, f"mixed {share:.0%}", rows)
        run(kind, "exchanged", [d.exchanged(lm, p, kind) for p in parts])
        run(kind, "deleted", [d.deleted(lm, p, kind) for p in parts])
    plain = d.in_plain_words(lm)
    run("markers", "in plain words", [d.as_text(lm, p, plain) for p in parts])
    run("markers", "spelled out", [d.as_text(lm, p) for p in parts])
    return pd.concat(frames, ignore_index=True)


def _responder(lm, parts):
    """A function: embeddings of every prompt -> what comes back, one row an item."""
    clean = next_logits(lm, [d.as_is(lm, p) for p in parts], batch_size=BATCH)
    clean = clean.softmax(-1)

    def respond(rows) -> pd.DataFrame:
        new = continue_from(
            lm, rows, max_new_tokens=NEW, return_ids=True, batch_size=BATCH
        )
        probs = next_logits(lm, rows, batch_size=BATCH).softmax(-1)
        pairs = [follows(lm, ids, p.gold) for ids, p in zip(new, parts)]
        frame = pd.DataFrame(pairs, columns=["ended", "followed"])
        frame["kl"] = stats.kl(clean, probs.clamp_min(1e-30)).tolist()
        frame["p_end"] = probs[:, list(lm.eos_ids)].sum(-1).tolist()
        return frame.assign(item=range(len(parts)))

    return respond


def follows(lm: LM, new: list[int], gold: str) -> tuple[bool, bool]:
    """(ended, followed): does an answer end, and does it say gold before that?"""
    words = [i for i in new if i not in lm.eos_ids]
    text = lm.tokenizer.decode(words, skip_special_tokens=True).lstrip()
    ended = len(words) < len(new) or "\n" in text
    said = re.escape(gold.strip().rstrip(".").casefold())
    answer = text.split("\n")[0].casefold()
    return ended, ended and re.search(rf"(?<!\w){said}(?!\w)", answer) is not None


# What is read off the answers


def rates(frame: pd.DataFrame, by: list[str], value="followed", seed=0) -> pd.DataFrame:
    """Mean of a column over items with its 95 % interval, for each group of `by`."""
    found = []
    for key, group in frame.groupby(by, sort=False):
        e = stats.bootstrap(group[value].astype(float).tolist(), seed=seed)
        found.append((*key, e.value, e.low, e.high, e.n))
    return pd.DataFrame(found, columns=[*by, "value", "low", "high", "n"])


def radius(frame: pd.DataFrame, kind: str, seed: int = 0) -> stats.Estimate:
    """The dose that halves the clean rate; the largest dose where none does."""
    doses, table = _table(frame, kind)
    return _over_items(table, lambda t: _half_dose(doses, t), seed)


def radius_ratio(
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
