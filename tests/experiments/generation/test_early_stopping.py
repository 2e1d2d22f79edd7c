"""Stops read off a free run, against the loop's own and by hand."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from experiments.generation import early_stopping
from experiments.prompts import prompt_suite, suites
from experiments.stats import Estimate
from harness.claims import measured
from harness.judge import judge
from helpers import generate_concepts
from helpers.decode import ConceptTrace

GREEDY = Estimate.exact(0.2, 60)
EACH = [str(i) for i in range(300)]  # every prompt a template of its own
PROMPTS = ["The capital of France is", "2 plus 2 equals", "The baker feeds the"]


def trace_of(ids, entropy):
    ids, entropy = torch.tensor(ids), torch.tensor(entropy)
    one = torch.ones(*ids.shape, 1)
    lengths = torch.full((len(ids),), ids.shape[1])
    return ConceptTrace(one, ids[..., None], entropy, one, one > 0, lengths)


def test_stop_lengths_are_the_loops_own(mini):
    free = early_stopping.FREE
    runs = early_stopping.free_runs(generate_concepts(mini, PROMPTS, 24, free), PROMPTS)
    for nats, run in ((0.03, 2), (0.3, 4), early_stopping.AS_CODED, (0.0, 1)):
        config = replace(free, stop_entropy=nats, stop_run=run)
        stopped = generate_concepts(mini, PROMPTS, 24, config).lengths.tolist()
        assert early_stopping.stop_lengths(runs, nats, run) == stopped


def test_a_loop_starts_where_nothing_new_is_said():
    assert early_stopping.loop_start(list(range(40))) is None
    assert early_stopping.loop_start([*range(8), *[1, 2, 3] * 12]) in range(6, 11)


def test_a_stop_that_sees_loops_beats_the_random_stop_and_a_blind_one_does_not():
    rng = np.random.default_rng(0)
    loop = [[*range(10), *[1, 2, 3] * 20] for _ in range(30)]
    talk = [list(rng.permutation(70)) for _ in range(30)]
    calm = [[2.0] * 10 + [0.0] * 60 for _ in range(30)]
    awake = [[2.0] * 70 for _ in range(30)]
    runs = early_stopping.free_runs(trace_of(loop + talk, calm + awake), EACH[:60])
    swept = early_stopping.stop_grid(runs)
    found = early_stopping.stop_parts(
        early_stopping.stop_rows(
            runs, early_stopping.stop_lengths(runs, *early_stopping.best_stop(swept))
        ),
        GREEDY,
    )
    assert found["loop_rate_free"].value == 0.5
    assert found["loop_difference"].high < -0.1
    assert found["stopped_looping"].low > found["stopped_looping_random"].high
    blind = early_stopping.free_runs(
        trace_of(loop + talk, awake[:15] * 2 + calm[:15] * 2), EACH[:60]
    )
    rows = early_stopping.stop_rows(blind, early_stopping.stop_lengths(blind, 0.3, 4))
    parts = early_stopping.stop_parts(rows, GREEDY)
    assert parts["loop_difference"].low > -0.05


def test_planted_loops_are_judged_only_where_greedy_decoding_does_not_loop():
    rng = np.random.default_rng(0)
    loop = [[*range(10), *[1, 2, 3] * 20] for _ in range(150)]
    talk = [list(rng.permutation(70)) for _ in range(150)]
    calm, awake = [2.0] * 10 + [0.0] * 60, [2.0] * 70
    seen = early_stopping.free_runs(
        trace_of(loop + talk, [calm] * 150 + [awake] * 150), EACH
    )
    rows = early_stopping.stop_rows(
        seen, early_stopping.stop_lengths(seen, *early_stopping.AS_CODED)
    )
    often, calm_greedy = Estimate.exact(0.9, 300), Estimate.exact(0.1, 300)
    assert verdict(early_stopping.stop_parts(rows, often)) == "not tested"
    assert verdict(early_stopping.stop_parts(rows, calm_greedy)) == "reproduced"
    few = early_stopping.stop_parts(rows[100:200], calm_greedy)
    assert verdict(few) == "not tested"


def verdict(parts):
    rows = [measured("G5", part, e, cell="m") for part, e in parts.items()]
    return judge("G5", rows, "mini").verdict


def test_what_two_stops_do_by_hand():
    # one ends in a loop and is stopped inside it, the other loops from step 1 on
    a = early_stopping.FreeRun(
        "a", [0.0, 2.0], np.array([0.0, 0, 1]), np.array([0.0, 1, 0])
    )
    b = early_stopping.FreeRun(
        "b", [2.0] * 3, np.array([0.0, 1, 1, 1]), np.array([0.0, 0, 1, 0])
    )
    rows = early_stopping.stop_rows(
        [a, b], early_stopping.stop_lengths([a, b], 0.01, 1)
    )
    assert rows.length.tolist() == [1, 3] and rows.random.tolist() == [0.5, 1]
    parts = early_stopping.stop_parts(rows, GREEDY)
    assert {k: e.value for k, e in parts.items()} == {
        "loop_rate_greedy": 0.2, "length": 2, "loop_rate_random": 0.75,
        "loop_rate_free": 1, "loop_difference": -0.25, "stopped": 0.5,
        "stopped_looping": 0.5, "stopped_looping_random": 0.25,
    }  # fmt: skip
    swept = (
        early_stopping.stop_grid([a, b]).set_index(["run", "threshold"]).loc[1, 0.01]
    )
    assert swept.to_dict() == {
        "stopped": 0.5, "loops": 0.5, "loops_random": 0.75, "difference": -0.25,
        "length": 2,
    }  # fmt: skip


def test_the_chosen_stop_lowers_loops_most_and_keeps_the_longest_text():
    columns = ["run", "threshold", "stopped", "difference", "length"]
    swept = pd.DataFrame(
        [(1, 0.01, 0.09, -0.9, 50), (2, 0.03, 0.1, -0.2, 10), (4, 0.1, 0.5, -0.3, 20),
         (8, 0.3, 0.5, -0.3 - 1e-12, 15), (16, 1.0, 0.9, 0.4, 40)],
        columns=columns,
    )  # fmt: skip
    assert early_stopping.best_stop(swept) == (0.1, 4)
    assert early_stopping.best_stop(swept.iloc[[0, 1]]) == (
        0.03,
        2,
    )  # a tenth is enough
    assert early_stopping.best_stop(swept.iloc[[0]]) == (0.01, 1)  # there is no other


def test_each_model_has_its_own_grid_and_its_best_stop(mini):
    runs = {
        name: early_stopping.free_runs(generate_concepts(mini, PROMPTS, steps), PROMPTS)
        for name, steps in (("a", 24), ("b", 12))
    }
    grids = early_stopping.stop_grids(runs)
    coded = grids[grids.stop == "as coded"]
    assert coded.model.tolist() == ["a", "b"]
    assert set(zip(coded.threshold, coded.run)) == {early_stopping.AS_CODED}
    settings = len(early_stopping.THRESHOLDS) * len(early_stopping.RUN_LENGTHS)
    assert grids.groupby("model").size().to_dict() == {"a": settings, "b": settings}
    best = {
        k: early_stopping.best_stop(early_stopping.stop_grid(runs[k])) for k in "ab"
    }
    assert early_stopping.best_stops(grids) == best


@pytest.mark.parametrize("set_name", ["mini", "yours"])
def test_loop_prompts_are_many_and_each_is_one_of_its_own(set_name):
    asked = suites(set_name)
    found = early_stopping.loop_prompts(asked, 600)
    assert len(found) == 600 and [*found][:2] == prompt_suite(asked, 1)[:2]
    assert found["The capital of France is"] == "The capital of _ is"
    with pytest.raises(ValueError, match="n=9999"):
        early_stopping.loop_prompts(asked, 9999)


def test_near_copies_are_drawn_together():
    """Thirty prompts of two templates, of which one always loops, say little."""
    rng = np.random.default_rng(0)
    loop = [[*range(10), *[1, 2, 3] * 20] for _ in range(15)]
    talk = [list(rng.permutation(70)) for _ in range(15)]
    trace = trace_of(loop + talk, [[2.0] * 70] * 30)
    for templates, width in ((EACH[:30], 0.4), (["a"] * 15 + ["b"] * 15, 1)):
        runs = early_stopping.free_runs(trace, templates)
        rows = early_stopping.stop_rows(runs, [70] * 30)
        found = early_stopping.stop_parts(rows, GREEDY)["loop_rate_free"]
        rate = early_stopping.loop_rate(trace, templates)
        assert (found.low, found.high) == (rate.low, rate.high) and found.n == 30
        assert rate.high - rate.low == pytest.approx(width, abs=0.05)
