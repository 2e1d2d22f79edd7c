"""Notebook 01: identity, chains, norms, early stop, sharpening, Appendix, Table 4.1."""

import numpy as np
import pandas as pd
import pytest
import torch

from experiments import floors, scoring
from experiments.generation import (
    appendix,
    early_stopping,
    greedy_identity,
    norms,
    sharpening,
    table_4_1,
    trajectories,
)
from experiments.prompts import prompt_suite
from experiments.stats import Estimate
from harness.claims import claim_row, rule_parts
from helpers import MixtureConfig, generate_concepts, load
from helpers.decode import ConceptTrace

PROMPTS = ["The capital of France is", "2 plus 2 equals", "The baker feeds the"]
IDS = [[1, 2, 3, 4], [5, 6], [7, 8, 9]]


def test_the_suite_starts_with_the_write_ups_prompts_and_has_no_doubles():
    prompts = prompt_suite(110)
    assert prompts[:2] == PROMPTS[:2]
    assert len(prompts) == len(set(prompts)) == 112
    assert prompt_suite(60) == prompts[:62]
    for n in (0, 10_000):
        with pytest.raises(ValueError, match=f"n={n}"):
            prompt_suite(n)


@pytest.mark.parametrize("name", ["mini-gpt2", "mini-qwen2"])
def test_the_measured_parts_are_those_of_the_rules(name):
    lm = load(name, device="cpu")
    prompts = prompt_suite(6)
    found = {
        "G1": greedy_identity.identity_parts(
            greedy_identity.identity_rows(lm, prompts, 6)
        )
    }
    gaps = sharpening.sharpening_rows([lm], prompts, MixtureConfig(), n_random=40)
    found["G2"] = sharpening.sharpening_parts(gaps)
    said = trajectories.chain_rows(lm, prompts, 6)
    found["G7"] = trajectories.chain_parts(said)
    trace = generate_concepts(
        lm, prompts, 6, MixtureConfig.appendix(), stop_at_eos=False
    )
    steps = norms.step_rows(lm, trace)
    found["G4"] = norms.drift_parts(steps)
    targets = scoring.pad_targets(list(said[said.kind == "greedy"].ids), 6)
    clips = norms.clip_rows(lm, prompts, trace, *targets)
    found["G3"] = norms.range_parts(clips, steps)["all rows"]
    runs = early_stopping.free_runs(generate_concepts(lm, prompts, 30))
    lengths = early_stopping.stop_lengths(
        runs, *early_stopping.best_stop(early_stopping.stop_grid(runs))
    )
    found["G5"] = early_stopping.stop_parts(early_stopping.stop_rows(runs, lengths))
    snippet, full = appendix.snippet_rows(lm, prompts), [run.length for run in runs]
    changed = appendix.clipped_rates(lm, trace)
    found["G8"] = appendix.snippet_parts(snippet, changed, full, lengths)
    for claim, own in found.items():
        assert set(rule_parts(claim)) <= set(own), claim
    # what holds whatever the model has learnt
    assert all(part.value == 0 for part in found["G1"].values())
    assert found["G2"]["deviation"].value < 1e-12
    assert found["G3"]["hull_violations"].value == 0
    assert (steps.ratio <= 1 + 1e-9).all()
    assert found["G8"]["weight_deviation"].value < 1e-9
    assert found["G8"]["batch_failure_rate"].value == 1


# What a model expects


def test_predictions_are_what_the_loop_said(lm):
    trace = generate_concepts(lm, PROMPTS, 6, stop_at_eos=False)
    top, log_p = scoring.teacher_forced_logprobs(lm, PROMPTS, trace.vectors)
    assert torch.equal(top, trace.indices[..., 0].cpu())
    assert (log_p <= 0).all() and log_p.shape == (3, 6)
    other = (top + 1) % lm.embed.shape[0]
    assert (
        scoring.teacher_forced_logprobs(lm, PROMPTS, trace.vectors, other)[1] < log_p
    ).all()


def test_identity_rows_see_a_difference(monkeypatch, mini):
    plain = (MixtureConfig(temperature=20.0, alpha=1.0), floors.random_tokens(0))
    monkeypatch.setitem(greedy_identity.ONE_TOKEN, "mismatch_onehot", plain)
    found = greedy_identity.identity_parts(
        greedy_identity.identity_rows(mini, PROMPTS, 6)
    )
    assert found["mismatch_onehot"].value > 0 and found["mismatch_k1"].value == 0


@pytest.fixture(scope="module")
def mini():
    return load("mini-gpt2", device="cpu")


def test_chains_of_floors_differ_only_in_what_is_fed(mini):
    rows = trajectories.chain_rows(mini, PROMPTS * 4, 6)
    first = rows.assign(first=rows.ids.str[0]).groupby("prompt")["first"]
    assert (first.nunique() == 1).all()
    greedy = rows[rows.kind == "greedy"]
    assert (greedy.agreement == 1).all() and (greedy.rouge_l == 1).all()
    by_step = trajectories.agreement_by_step(rows, 6)
    assert (by_step[by_step.step == 1].share == 1).all()


def test_sayable_knows_what_the_corpus_says(mini):
    from models.corpus import covers

    rows = [(0, "right", " Paris."), (0, "wrong", " known the sea.")]
    rows.append((1, "right", " 4."))
    rows = pd.DataFrame(rows, columns=["prompt", "kind", "text"])
    rows["ids"] = [mini.tokenizer(text)["input_ids"] for text in rows.text]
    found = trajectories.sayable_share(mini, [*PROMPTS[:2], "xyzzy"], rows, covers)
    assert found.to_dict() == {"right": 1.0, "wrong": 0.0}


def test_the_parts_of_g7_lie_between_the_right_floor_and_ceiling():
    kinds = list(trajectories.chain_kinds())
    both = [  # agreement, ROUGE-L and NLL of two prompts, by kind
        ((1, 1), (1, 1), (1, 2)), ((0.5, 0.75), (0.8, 0.9), (2, 3)),
        ((0.3, 0.3), (0, 0), (9, 9)), ((0.25, 0.5), (0, 0), (9, 9)),
        ((0.1, 0.2), (0, 0), (9, 9)), ((0, 0.1), (0.2, 0.4), (4, 6)),
        ((0, 0), (0, 0), (9, 9)),
    ]  # fmt: skip
    rows = pd.DataFrame([
        {"prompt": i, "kind": kind, "agreement": a[i], "rouge_l": r[i], "nll": n[i]}
        for kind, (a, r, n) in zip(kinds, both) for i in (0, 1)
    ])  # fmt: skip
    found = {k: e.value for k, e in trajectories.chain_parts(rows).items()}
    assert found == pytest.approx({
        "agreement": 0.625, "agreement_raw": 0.375, "agreement_shuffled": 0.15,
        "agreement_random": 0.05, "agreement_random_tokens": 0,
        "rouge_l": 0.85, "rouge_l_random": 0.3,
        # 5 nats better than random weights, where greedy is 7 nats better
        "nll_score": 5 / 7,
    })  # fmt: skip


# Norms


def test_the_drift_is_last_minus_first_and_unsure_is_the_upper_third_of_entropy():
    own = pd.DataFrame({
        "prompt": [0, 0, 0, 1, 1, 1], "kind": norms.OWN,
        "entropy": [1.0, 5.0, 3.0, 6.0, 2.0, 4.0],  # the upper third: 5 and 6
        "ratio": [0.9, 0.5, 0.8, 0.4, 0.6, 0.7],
        "spread": [1.0, 0.4, 0.9, 0.2, 1.0, 1.0],
        "centred": [1.0, 0.7, 0.9, 0.5, 1.0, 1.0],
        "cosine": [1.0, 0.6, 1.0, 0.8, 1.0, 1.0],
    })  # fmt: skip
    other = own.assign(kind=norms.RANDOM, ratio=[0.1, 0.2, 0.3, 0.6, 0.5, 0.4])
    found = norms.drift_parts(pd.concat([own, other], ignore_index=True))
    assert {k: e.value for k, e in found.items()} == pytest.approx({
        "ratio_high": 0.45, "spread_high": 0.3, "centred_high": 0.6,
        "cosine_high": 0.7, "random_tokens_high": 0.4,
        "ratio_drift": 0.1,  # -0.1 in the one prompt, +0.3 in the other
        "ratio_rho": 1 - 6 * 64 / (6 * 35),  # squared rank differences sum to 64
    })  # fmt: skip
    drift = found["ratio_drift"]
    assert (drift.low, drift.high) == pytest.approx((-0.1, 0.3)) and drift.n == 2


def test_the_parts_of_g3_are_means_by_range_and_violations_are_counted():
    rows = pd.DataFrame(
        [(0, "all rows", 0.0, 0.5, 0.2, 0.0, 0.2), (1, "all rows", 0, 1, 0.4, 0, 0.6),
         (0, "1-99 %", 0.25, 0.5, -0.5, 0.1, 0), (1, "1-99 %", 0.5, 0, 0.1, 0.3, 1)],
        columns=["prompt", "range", "above", "below", "both", "upper", "lower"],
    )  # fmt: skip
    steps = pd.DataFrame({
        "kind": [norms.OWN] * 3 + [norms.RANDOM] * 2,
        "norm": [1 + 1e-12, 2.0, 3.1, 9.0, 9.0], "hull": [1.0, 2.5, 3.0, 1.0, 1.0],
    })  # fmt: skip
    found = norms.range_parts(rows, steps)
    names = "hull_violations upper_rate lower_rate delta_nll delta_upper delta_lower"
    for name, values in {
        "all rows": (1, 0, 0.75, 0.3, 0, 0.4),
        "1-99 %": (1, 0.375, 0.25, -0.2, 0.2, 0.5),
    }.items():
        own = {part: e.value for part, e in found[name].items()}
        assert own == pytest.approx(dict(zip(names.split(), values)))
        assert found[name]["hull_violations"].n == 3


def test_clipping_by_a_range_that_holds_everything_changes_nothing(mini):
    trace = generate_concepts(
        mini, PROMPTS, 4, MixtureConfig.appendix(), stop_at_eos=False
    )
    targets = trace.indices[..., 0].cpu(), torch.tensor([4, 4, 2])
    rows = norms.clip_rows(mini, PROMPTS, trace, *targets)
    box = rows[rows.range == "per coordinate"]
    assert not box[["above", "below", "both", "upper", "lower"]].to_numpy().any()


@pytest.mark.parametrize("name", norms.RANGES)
def test_what_lies_outside_is_seen_and_brought_back(mini, name):
    low, high = norms.norm_limits(mini, name)
    x = torch.stack([mini.embed[0] * 100, mini.embed[0] * 1e-3, mini.embed.mean(0)])
    above, below = norms.outside_range(x, name, low, high)
    assert above[0] and (below[1] or name == "per coordinate")
    inside = norms.clip_to_range(x, name, low, high)
    assert not torch.stack(norms.outside_range(inside, name, low, high)).any()


# Stopping


def trace_of(ids, entropy):
    ids, entropy = torch.tensor(ids), torch.tensor(entropy)
    one = torch.ones(*ids.shape, 1)
    lengths = torch.full((len(ids),), ids.shape[1])
    return ConceptTrace(one, ids[..., None], entropy, one, one > 0, lengths)


def test_stop_lengths_are_the_loops_own(mini):
    runs = early_stopping.free_runs(generate_concepts(mini, PROMPTS, 24))
    for nats, run in ((0.03, 2), (0.3, 4), (1.0, 3), (0.0, 1)):
        config = MixtureConfig(stop_entropy=nats, stop_run=run)
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
    runs = early_stopping.free_runs(trace_of(loop + talk, calm + awake))
    swept = early_stopping.stop_grid(runs)
    found = early_stopping.stop_parts(
        early_stopping.stop_rows(
            runs, early_stopping.stop_lengths(runs, *early_stopping.best_stop(swept))
        )
    )
    assert found["loop_rate_free"].value == 0.5
    assert found["loop_difference"].high < -0.1
    assert found["stopped_looping"].low > found["stopped_looping_random"].high
    blind = early_stopping.free_runs(
        trace_of(loop + talk, awake[:15] * 2 + calm[:15] * 2)
    )
    rows = early_stopping.stop_rows(blind, early_stopping.stop_lengths(blind, 0.3, 4))
    assert early_stopping.stop_parts(rows)["loop_difference"].low > -0.05


def test_what_two_stops_do_by_hand():
    # one ends in a loop and is stopped inside it, the other loops from step 1 on
    a = early_stopping.FreeRun([0.0, 2.0], np.array([0.0, 0, 1]), np.array([0.0, 1, 0]))
    b = early_stopping.FreeRun(
        [2.0] * 3, np.array([0.0, 1, 1, 1]), np.array([0.0, 0, 1, 0])
    )
    rows = early_stopping.stop_rows(
        [a, b], early_stopping.stop_lengths([a, b], 0.01, 1)
    )
    assert rows.length.tolist() == [1, 3] and rows.random.tolist() == [0.5, 1]
    found = {k: e.value for k, e in early_stopping.stop_parts(rows).items()}
    assert found == {
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


# The recipe


def test_the_parts_of_g1_g2_and_g8_by_hand():
    ids = pd.DataFrame({"part": list("aabb"), "equal": [True, False, True, True]})
    found = greedy_identity.identity_parts(ids)
    assert {k: (e.value, e.high, e.n) for k, e in found.items()} == {
        "a": (1, 1, 2), "b": (0, 0, 2),
    }  # fmt: skip
    gaps = sharpening.sharpening_parts(pd.DataFrame({"gap": [0.1, 0.3, 0.2]}))
    assert gaps["deviation"] == Estimate(0.3, 0.3, 0.3, 3)
    rows = {"weight_gap": [0.1, 0.4, 0.2, 0.0], "batch_fails": [True] * 3 + [False]}
    found = appendix.snippet_parts(
        pd.DataFrame(rows), [0.5, 0, 0, 0], [9, 9, 9, 5], [9, 2, 9, 5]
    )
    assert {k: e.value for k, e in found.items()} == {
        "weight_deviation": 0.4, "batch_failure_rate": 0.75,
        "vector_difference_rate": 0.125, "length_difference_rate": 0.25,
    }  # fmt: skip


def test_sharpening_is_a_temperature_and_the_measure_can_say_otherwise(monkeypatch):
    z = torch.randn(20, 99)
    sharp, cold = sharpening.two_formulas(z, MixtureConfig(top_k=7))
    assert (sharp - cold).abs().max() < 1e-12
    other = sharpening.two_formulas(z, MixtureConfig(top_k=7, alpha=1.0))[0]
    assert (sharp - other).abs().max() > 1e-3


def test_the_snippet_fails_on_the_shape_a_model_gives():
    embed, z = torch.randn(99, 16), torch.randn(99)
    weights, concept = appendix.generate_concept_token(z, embed)
    assert weights.shape == (50,) and concept.shape == (16,)
    with pytest.raises(RuntimeError, match="50"):
        appendix.generate_concept_token(z[None], embed)


# Table 4.1


def test_table_4_1_is_read_and_fitted():
    paper = claim_row("G6")["paper_value"]
    cells = table_4_1.paper_cells(paper)
    assert len(cells) == 8 and cells.token[4] == " "
    rows = cells.assign(setting="raw", model="right")[
        ["prompt", "setting", "step", "token", "prob", "model"]
    ]
    rows["token"] = [t if t == " " else f" {t}" for t in rows.token]
    wrong = rows.assign(prob=0.5, model="wrong")
    best = table_4_1.best_fit(table_4_1.fit_settings(pd.concat([wrong, rows]), paper))
    assert set(best.model) == {"right"} and (best.weight == best.prob).all()
    assert table_4_1.format_top_tokens(rows[:2]) == '77% " Paris", 8% " located"'


def test_the_table_stands_beside_the_truth(mini):
    from models.corpus import true_next

    rows = table_4_1.table_rows({"mini-gpt2": mini}, PROMPTS[:2], true_next)
    sums = rows.groupby(["prompt", "setting", "step"]).prob.sum()
    assert np.allclose(sums.drop("raw", level="setting"), 1, atol=1e-3)
    assert set(rows.setting) == {*table_4_1.SETTINGS, "true"}
    wide = table_4_1.table_41(rows, claim_row("G6")["paper_value"])
    assert list(wide["write-up"])[0] == '77% "Paris", 8% "located"'
    assert len(wide) == 4 and "Paris" in wide["true"][0]
