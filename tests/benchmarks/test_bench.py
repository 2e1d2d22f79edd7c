"""benchmarks/: its arithmetic on made-up timings, and every contestant once."""

import time

import pandas as pd
import pytest
import torch

from benchmarks import measure, report
from benchmarks.__main__ import merge_with_kept
from benchmarks.contestants import SHAPES, contestants, generate_concept_token
from helpers import MixtureConfig, generate_concepts, mix, mixture_weights

TIMES = {  # contestant: batch, seconds in three rounds of 48 steps
    "generate": (1, (2.0, 2.2, 4.0)),
    "ours": (1, (1.0, 1.1, 2.0)),
    "ours x64": (64, (4.0, 4.4, 8.0)),
    "ours compiled": (1, (0.5, 0.6, 1.0)),
}


def timed(times=TIMES):
    rows = [
        ("mini_qwen2", name, batch, turn, value)
        for name, (batch, values) in times.items()
        for turn, value in enumerate(values)
    ]
    names = ["shape", "contestant", "batch", "round", "seconds"]
    return pd.DataFrame(rows, columns=names)


def speed(times=TIMES):
    more = {"peak mb": 1.0, "bandwidth used": 0.1}
    return report.summarise(timed(times), "mini_qwen2", 48).assign(**more)


def targets(times, power):
    found = report.targets(speed(times), timed(times), grown(power))
    return found.set_index("target")


def grown(power):
    steps = [32, 64, 128, 256]
    frame = pd.DataFrame({"steps": steps, "seconds": [s**power / 9 for s in steps]})
    return frame.assign(contestant="ours", shape="mini_qwen2")


def test_ratios_are_taken_within_a_round():
    table = speed().set_index("contestant")
    assert table.loc["ours", "times generate"] == pytest.approx(2.0)
    assert table.loc["ours", "low"] == pytest.approx(2.0)  # a busy round hits both
    assert table.loc["ours x64", "times generate"] == pytest.approx(32.0)
    assert table.loc["ours", "ms a step"] == pytest.approx(1.1 / 48 * 1e3)
    assert table.loc["ours x64", "tokens a second"] == pytest.approx(64 * 48 / 4.4)


def test_a_target_is_met_or_not_by_its_number():
    found = targets(TIMES, 1.0)
    assert found.loc["ours x64 / ours", "measured"] == pytest.approx(16.0)
    assert (found.low <= found.measured).all() and (found.measured <= found.high).all()
    assert found.met.to_dict() == {
        "ours / generate": True,
        "ours x64 / ours": True,
        "ours compiled / generate": True,
        "ours: exponent of time over steps": True,
    }
    slow = TIMES | {"ours compiled": (1, (1.0, 1.1, 2.0)), "ours": (1, (2.1, 2.4, 4.2))}
    missed = targets(slow, 1.3).met
    assert not missed["ours compiled / generate"] and not missed["ours / generate"]
    assert not missed["ours: exponent of time over steps"]


def test_exponent_and_crossing():
    assert measure.exponent([10, 20, 40], [3, 12, 48]) == pytest.approx((2.0,) * 3)
    slope, low, high = measure.exponent([10, 20, 40, 80], [1, 2.2, 3.6, 8.4])
    assert low < 1 < high and low < slope < high
    frame = pd.DataFrame({"k": [1, 10, 100] * 2, "way": ["gather"] * 3 + ["dense"] * 3})
    assert measure.crossing(frame.assign(microseconds=[1, 5, 50, 9, 9, 9])) == 100
    never = measure.crossing(frame.assign(microseconds=[1, 2, 3, 9, 9, 9]))
    assert never == float("inf")


def test_both_ways_to_mix_agree_and_are_timed():
    embed, logits = torch.randn(40, 6), torch.randn(3, 40)
    weights = mixture_weights(logits, MixtureConfig(top_k=7))
    gathered = mix(*weights[:2], embed)
    assert torch.allclose(measure.dense(*weights[:2], embed), gathered, atol=1e-6)
    frame = measure.mixing([(40, 6)], (1, 99), batches=(2,), repeats=1)
    assert frame.k.tolist() == [1, 1, 40, 40] and (frame.microseconds > 0).all()


def test_every_contestant_runs_on_the_tiny_shape():
    lm = SHAPES["tiny"]("cpu")
    who = contestants(lm, 4, batches=(1, 2), compiled=False)
    frame = measure.interleaved(who, rounds=2)
    assert list(who) == ["generate", "appendix", "ours", "ours x2"]
    assert len(frame) == 8 and (frame.seconds > 0).all()
    found = measure.growth(lm, [4, 8], 1, {"appendix": 4})
    assert found[found.contestant == "appendix"].steps.tolist() == [4]
    spent = measure.profile(who)
    assert set(spent.contestant) == {"generate", "appendix", "ours"}
    assert "aten::addmm" in set(spent.operator) and (spent.share > 0).all()


def test_each_round_begins_with_another_contestant():
    called = []
    who = {name: (lambda name=name: called.append(name), 1) for name in "abc"}
    measure.interleaved(who, rounds=3, warm=False)
    assert "".join(called) == "abcbcacab"


def test_one_row_times_every_matrix_is_timed_both_ways():
    lm = SHAPES["tiny"]("cpu")
    before = torch.get_num_threads()
    found = measure.products(lm, repeats=2)
    assert found.way.tolist() == ["library", "library", "sums"]
    assert found.threads.tolist() == [1, before, before] == [1, *[before] * 2]
    assert torch.get_num_threads() == before and (found["gb a second"] > 0).all()


def test_more_rounds_until_enough_seconds_have_passed():
    who = {"wait": (lambda: time.sleep(0.01), 1)}
    assert len(measure.interleaved(who, 3)) == 3
    assert len(measure.interleaved(who, 3, min_seconds=0.1)) > 3


def test_a_shape_measured_again_replaces_its_own_rows_only(tmp_path):
    first = pd.DataFrame({"shape": ["mini_qwen2", "gpt2_124m"], "ms": [1, 2]})
    first.to_csv(tmp_path / "speed.csv", index=False)
    again = pd.DataFrame({"shape": ["gpt2_124m"], "ms": [3]})
    table = merge_with_kept(again, "speed", tmp_path)
    assert table["shape"].tolist() == ["mini_qwen2", "gpt2_124m"]
    assert table.ms.tolist() == [1, 3]


def test_the_appendix_contestant_computes_what_ours_does():
    lm = SHAPES["tiny"]("cpu")
    trace = generate_concepts(lm, [[3, 4]], steps=1, config=MixtureConfig.appendix())
    with torch.no_grad():
        logits = lm.model(torch.tensor([[3, 4]])).logits[0, -1]
        concept = generate_concept_token(logits, lm.model.get_input_embeddings())
    assert torch.allclose(trace.vectors[0, 0], concept, atol=1e-6)


def test_the_alt_text_is_a_sentence_with_the_numbers():
    mixed = pd.DataFrame({"k": [1, 10] * 2, "way": ["gather"] * 2 + ["dense"] * 2})
    mixed = mixed.assign(vocabulary=64, width=8, batch=1, microseconds=[1, 9, 5, 5])
    figure = report.picture(speed(), grown(1.0), mixed)
    assert len(figure.axes) == 3
    alt = report.alt_text(speed(), grown(1.0), mixed)
    for part in ("2.00 times generate", "power 1.00", "batch 1 from k = 10 of 64"):
        assert part in alt
