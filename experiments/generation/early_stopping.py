"""Stopping early by entropy, and loops (CLAIMS.md G5).

    free_runs          what each free run says, and from where on it loops
    stop_lengths       where Cold Stop would end each of them
    sweep, choose      every threshold and run length, and the best of them
    stop_rows, stop_parts   the chosen one on other prompts, beside a random stop

A stop does not change the steps before it, so that every setting is read off one run
without a stop. A test checks this against the loop's own early stop.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from experiments.metrics import loops
from experiments.stats import Estimate, bootstrap, paired_difference

if TYPE_CHECKING:
    from helpers.decode import ConceptTrace

THRESHOLDS = (0.01, 0.03, 0.1, 0.3, 1.0)  # nats
RUNS = (1, 2, 4, 8, 16)  # steps in a row


@dataclass(frozen=True, eq=False)
class FreeRun:
    """One prompt's run without a stop, L steps long.

    entropy (L,) nats; looping (L+1,): whether its first t steps loop, by stats.loops;
    inside (L+1,): whether a stop after t steps cuts it inside the loop it ends in.
    """

    entropy: list[float]
    looping: np.ndarray
    inside: np.ndarray

    @property
    def length(self) -> int:
        return len(self.entropy)


def free_runs(trace: ConceptTrace) -> list[FreeRun]:
    """The runs of a trace that was made without early stop."""
    runs = []
    for ids, entropy in zip(trace.tokens, trace.entropy.tolist()):
        steps, start = np.arange(len(ids) + 1), loop_start(ids)
        looping = np.array([loops(ids[:t]) for t in steps], dtype=float)
        inside = (steps >= start if start is not None else steps < 0).astype(float)
        inside[-1] = 0  # the run's own end is no stop
        runs.append(FreeRun(entropy[: len(ids)], looping, inside))
    return runs


def loop_start(ids: list[int], n: int = 3, share: float = 0.9) -> int | None:
    """The first step from which at least `share` of the n-grams have been said before;
    None where the run does not loop, by stats.loops, or has no such step."""
    if not loops(ids, n):
        return None
    grams = [tuple(ids[t : t + n]) for t in range(len(ids) - n + 1)]
    first = {gram: t for t, gram in reversed(list(enumerate(grams)))}
    repeated = np.array([first[gram] < t for t, gram in enumerate(grams)])
    rest = repeated[::-1].cumsum()[::-1] / np.arange(len(grams), 0, -1)
    return int(np.argmax(rest >= share)) if (rest >= share).any() else None


def stop_lengths(runs: list[FreeRun], threshold: float, run: int) -> list[int]:
    """Length of each run when it ends with the first `run` steps below `threshold`."""
    out = []
    for free in runs:
        cold, length = 0, free.length
        for t, nats in enumerate(free.entropy, 1):
            cold = cold + 1 if nats < threshold else 0
            if cold == run:
                length = t
                break
        out.append(length)
    return out


def stop_rows(runs: list[FreeRun], lengths: list[int]) -> pd.DataFrame:
    """One row a run: does it loop when free, when stopped at its length (entropy), and
    how often when stopped at another run's (random: the same lengths, dealt out in
    every order); inside, inside_random: does the stop fall inside its loop."""
    rows, dealt = [], np.array(lengths)
    for free, length in zip(runs, lengths):
        others = np.minimum(dealt, free.length)
        rows.append({
            "length": length, "stopped": float(length < free.length),
            "free": free.looping[-1], "entropy": free.looping[length],
            "random": free.looping[others].mean(), "inside": free.inside[length],
            "inside_random": free.inside[others].mean(),
        })  # fmt: skip
    return pd.DataFrame(rows)


def stop_grid(runs: list[FreeRun]) -> pd.DataFrame:
    """Every threshold and run length: the share of runs that stop and that loop, and
    the difference in loops to the random stop (below 0: the entropy stop is better)."""
    out = []
    for run in RUNS:
        for threshold in THRESHOLDS:
            rows = stop_rows(runs, stop_lengths(runs, threshold, run))
            out.append({
                "run": run, "threshold": threshold, "stopped": rows.stopped.mean(),
                "loops": rows.entropy.mean(), "loops_random": rows.random.mean(),
                "difference": round((rows.entropy - rows.random).mean(), 12) + 0.0,
                "length": rows.length.mean(),
            })  # fmt: skip
    return pd.DataFrame(out)


def best_stop(swept: pd.DataFrame) -> tuple[float, int]:
    """The threshold and run length that lower the loop rate most against the random
    stop; among equals the one that keeps the longest text. Settings that stop fewer
    than a tenth of the runs do not count, unless all are such."""
    acting = swept[swept.stopped >= 0.1] if (swept.stopped >= 0.1).any() else swept
    order = acting.assign(difference=acting.difference.round(9)).sort_values(
        ["difference", "length"], ascending=[True, False], kind="stable"
    )
    return float(order.threshold.iloc[0]), int(order.run.iloc[0])


def loop_rate(trace: ConceptTrace, seed: int = 0) -> Estimate:
    """Share of a trace's rows that loop."""
    return bootstrap([float(loops(ids)) for ids in trace.tokens], seed=seed)


def stop_parts(rows: pd.DataFrame, seed: int = 0) -> dict[str, Estimate]:
    """G5's parts; the share of runs that stop stands beside them."""
    difference = paired_difference(rows.entropy, rows.random, seed=seed)
    return {
        "loop_rate_free": bootstrap(rows.free, seed=seed),
        "loop_difference": _rounded(difference),
        "stopped_looping": bootstrap(rows.inside, seed=seed),
        "stopped_looping_random": bootstrap(rows.inside_random, seed=seed),
        "stopped": bootstrap(rows.stopped, seed=seed),
    }


def _rounded(e: Estimate) -> Estimate:
    """Without the rounding error that is left where two rates are equal."""
    numbers = (round(x, 12) + 0.0 for x in (e.value, e.low, e.high))
    return Estimate(*numbers, e.n, e.seed)
