"""Stopping early by entropy, and loops (CLAIMS.md G5).

    loop_prompts   the prompts that loops are looked for after
    free_runs      entropies and loops of each prompt's text, made without a stop
    stop_lengths   where a threshold and a run length would end each of them
    stop_rows      what that stop does to each run, beside a random stop
    stop_grid      every threshold and run length, for one model; stop_grids: for all
    best_stop      the setting that lowers loops most; best_stops: each model's
    stop_parts     G5's parts; loop_rate: how many texts loop

A stop does not change the steps before it, so every setting is read off one run without
a stop (FREE). A test checks this against the loop's own early stop. The entropy is that
of softmax(z / 0.8), as in the original code, whose stop is AS_CODED.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, product
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from experiments.metrics import loops
from experiments.prompts import SUM, Item, prompt_suite, template_of
from experiments.stats import Estimate, bootstrap, clustered
from helpers.mixture import MixtureConfig

if TYPE_CHECKING:
    from helpers.decode import ConceptTrace

ORIGINAL = MixtureConfig.original()
AS_CODED = (ORIGINAL.stop_entropy, ORIGINAL.stop_run)  # nats, steps in a row
FREE = MixtureConfig(entropy_temperature=ORIGINAL.entropy_temperature)
THRESHOLDS = (0.01, 0.03, 0.1, 0.3, 1.0)  # nats
RUN_LENGTHS = (1, 2, 4, 8, 16)  # steps in a row
GRID_AXES = {
    "x": "length",
    "y": "difference",
    "by": "stop",
    "panel": "model",
    "xlabel": "mean length that the stop leaves (tokens)",
    "ylabel": "difference in loop rate",
}


def loop_prompts(asked: Mapping[str, Sequence[Item]], n: int) -> dict[str, str]:
    """Prompt -> template of `n` prompts: prompt_suite's, then sums up to 20 plus 20.

    asked: a set's suites. ValueError where n is more than there are.
    """
    pools = chain.from_iterable(asked[k] for k in ("ambiguous", "capitals", "sums"))
    beside = {item.prompt for item in pools} - {
        item.prompt for item in asked["writeup"]
    }
    found = {p: template_of(p) for p in prompt_suite(asked, len(beside))}
    found |= {f"{a} plus {b} equals": SUM for a, b in product(range(21), range(21))}
    if not 1 <= n <= len(found):
        raise ValueError(f"n={n}: expected 1 to {len(found)} prompts")
    return dict(islice(found.items(), n))


@dataclass(frozen=True, eq=False)
class FreeRun:
    """One prompt's run without a stop, L steps long.

    template: the prompt's. entropy (L,) nats. looping (L+1,): whether its first t steps
    loop (metrics.loops). inside (L+1,): whether a stop after t steps cuts it inside the
    loop it ends in.
    """

    template: str
    entropy: list[float]
    looping: np.ndarray
    inside: np.ndarray

    @property
    def length(self) -> int:
        return len(self.entropy)


def free_runs(trace: ConceptTrace, templates: Sequence[str]) -> list[FreeRun]:
    """The runs of a trace that was made without early stop, and their templates."""
    runs = []
    for ids, nats, template in zip(trace.tokens, trace.entropy.tolist(), templates):
        steps, start = np.arange(len(ids) + 1), loop_start(ids)
        looping = np.array([loops(ids[:t]) for t in steps], dtype=float)
        inside = (steps >= start if start is not None else steps < 0).astype(float)
        inside[-1] = 0  # the run's own end is no stop
        runs.append(FreeRun(template, nats[: len(ids)], looping, inside))
    return runs


def loop_start(ids: list[int], n: int = 3, share: float = 0.9) -> int | None:
    """First step from which at least `share` of the n-grams have occurred before.

    None where ids do not loop (metrics.loops), or have no such step.
    """
    if not loops(ids, n):
        return None
    grams = [tuple(ids[t : t + n]) for t in range(len(ids) - n + 1)]
    first = {gram: t for t, gram in reversed(list(enumerate(grams)))}
    repeated = np.array([first[gram] < t for t, gram in enumerate(grams)])
    rest = repeated[::-1].cumsum()[::-1] / np.arange(len(grams), 0, -1)
    return int(np.argmax(rest >= share)) if (rest >= share).any() else None


def stop_lengths(runs: list[FreeRun], threshold: float, run_length: int) -> list[int]:
    """Length of each run, ended by the first `run_length` steps below `threshold`."""
    lengths = []
    for run in runs:
        in_a_row, length = 0, run.length
        for t, nats in enumerate(run.entropy, 1):
            in_a_row = in_a_row + 1 if nats < threshold else 0
            if in_a_row == run_length:
                length = t
                break
        lengths.append(length)
    return lengths


def stop_rows(runs: list[FreeRun], lengths: list[int]) -> pd.DataFrame:
    """Compare the stop at `lengths` with a random stop, one row a run.

    free, entropy, random: does it loop unstopped, stopped at its own length, and how
    often when stopped at another run's (the same lengths, dealt out in every order);
    inside, inside_random: does the stop fall inside its loop.
    """
    rows = []
    for run, length in zip(runs, lengths):
        dealt = np.minimum(lengths, run.length)
        own = run.looping[length], run.inside[length]
        random = run.looping[dealt].mean(), run.inside[dealt].mean()
        stopped = float(length < run.length)
        rows.append((run.template, length, stopped, run.looping[-1], *own, *random))
    columns = ["template", "length", "stopped", "free", "entropy", "inside"]
    return pd.DataFrame(rows, columns=[*columns, "random", "inside_random"])


def stop_grid(runs: list[FreeRun]) -> pd.DataFrame:
    """Try every threshold and run length: one row each.

    Shares of runs that stop and that loop; the difference in loops to the random stop
    (below 0: the entropy stop is better); mean length.
    """
    grid = []
    for run_length, threshold in product(RUN_LENGTHS, THRESHOLDS):
        rows = stop_rows(runs, stop_lengths(runs, threshold, run_length))
        rates = rows.stopped.mean(), rows.entropy.mean(), rows.random.mean()
        difference = round((rows.entropy - rows.random).mean(), 9) + 0.0  # no -0.0
        grid.append((run_length, threshold, *rates, difference, rows.length.mean()))
    columns = ["run", "threshold", "stopped", "loops", "loops_random", "difference"]
    return pd.DataFrame(grid, columns=[*columns, "length"])


def stop_grids(runs: dict[str, list[FreeRun]]) -> pd.DataFrame:
    """stop_grid of each model's runs, by model; stop: as coded, or another setting."""
    grids = pd.concat([stop_grid(own).assign(model=m) for m, own in runs.items()])
    coded = (grids.threshold == AS_CODED[0]) & (grids.run == AS_CODED[1])
    return grids.assign(stop=coded.map({True: "as coded", False: "another setting"}))


def best_stop(grid: pd.DataFrame) -> tuple[float, int]:
    """Threshold and run length that lower loops most against the random stop.

    Among equals the one that keeps the longest text. Settings that stop fewer than a
    tenth of the runs do not count, unless all are such.
    """
    acting = grid[grid.stopped >= 0.1] if (grid.stopped >= 0.1).any() else grid
    acting = acting.assign(difference=acting.difference.round(9))
    order = acting.sort_values(["difference", "length"], ascending=[True, False])
    return float(order.threshold.iloc[0]), int(order.run.iloc[0])


def best_stops(grids: pd.DataFrame) -> dict[str, tuple[float, int]]:
    """best_stop of each model of stop_grids."""
    return {name: best_stop(grid) for name, grid in grids.groupby("model", sort=False)}


def loop_rate(trace: ConceptTrace, templates: Sequence[str], seed: int = 0) -> Estimate:
    """Share of a trace's rows that loop."""
    looping = [float(loops(ids)) for ids in trace.tokens]
    return clustered(bootstrap, templates, looping, seed=seed)


def stop_parts(
    rows: pd.DataFrame, greedy: Estimate, seed: int = 0
) -> dict[str, Estimate]:
    """G5's parts; beside them, unjudged, what a random stop leaves, stops and lengths.

    greedy: loop_rate of greedy decoding after the same prompts. Intervals draw whole
    templates.
    """
    columns = {
        "loop_rate_free": rows.free,
        "loop_difference": (rows.entropy - rows.random).round(12),
        "stopped_looping": rows.inside,
        "stopped_looping_random": rows.inside_random,
        "loop_rate_random": rows.random,
        "stopped": rows.stopped,
        "length": rows.length,
    }
    return {"loop_rate_greedy": greedy} | {
        name: clustered(bootstrap, rows.template, column, seed=seed)
        for name, column in columns.items()
    }
