"""Probes on planted data find what is there, and nothing where nothing is."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import accuracy_score

from experiments import prompts
from experiments.information_analysis import contexts, probes

RNG = np.random.default_rng(0)
N = 600
FAMILY = np.repeat(np.arange(10), N // 10)
X = RNG.standard_normal((N, 8))


def r2(target, predicted, reference):
    error, blind = target - predicted, target - reference
    return 1 - (error @ error) / (blind @ blind)


def score(features, target):
    guess = probes.ridge(features, target, FAMILY)
    return r2(target, guess, probes.mean_prediction(target, FAMILY))


def test_ridge_finds_a_planted_direction_and_its_noise_ceiling():
    signal = X @ np.arange(8.0)
    assert score(X, signal) > 0.999
    noisy = signal + RNG.standard_normal(N) * signal.std()  # half the variance is noise
    assert score(X, noisy) == pytest.approx(0.5, abs=0.08)


def test_shuffled_labels_give_nothing():
    assert score(X, RNG.permutation(X @ np.arange(8.0))) < 0.02


def test_a_family_that_gives_the_answer_away_is_no_help_when_held_out():
    target = RNG.standard_normal(10)[FAMILY]  # constant within a family
    found = probes.Positions({}, target, *[FAMILY] * 6)
    assert score(probes.token_features(found), target) <= 0.02


def test_logistic_finds_planted_classes():
    target = 10 + X[:, :3].argmax(1)
    assert accuracy_score(target, probes.logistic(X, target, FAMILY)) > 0.9
    shuffled = probes.logistic(X, RNG.permutation(target), FAMILY)
    assert accuracy_score(target, shuffled) < 0.45


def test_no_family_is_on_both_sides():
    for train, test in probes.folds(FAMILY):
        assert not set(FAMILY[train]) & set(FAMILY[test])
    with pytest.raises(ValueError, match="1 family"):
        probes.folds(np.zeros(5))


def test_templates_of_one_family_are_held_out_together():
    openings = contexts.completion_prompts(prompts.SUITES)
    family = np.array([opening.family for opening in openings])
    assert set(family) == {"chores", "journeys", "capitals", "sums", "meanings"}
    template = np.array([opening.template for opening in openings])
    assert len(set(template[family == "chores"])) == 4
    held_out = [set(family[test]) for _, test in probes.folds(family)]
    assert sorted(map(len, held_out)) == [1] * 5


def test_a_natural_template_is_a_family_of_its_own():
    asked = prompts.suites("smollm2")
    openings = contexts.completion_prompts(asked)
    written = {item.template for item in asked["ambiguous"]}
    family = {opening.family for opening in openings}
    assert family == written | {"capitals", "sums", "meanings"} and len(written) > 50
    said = {opening.prompt for opening in openings}
    assert {item.prompt for item in asked["sums"]} < said
    assert not said & {item.prompt for item in prompts.SUITES["ambiguous"]}
    drawn = contexts.sample_prompts(asked, 50)
    assert len(set(drawn)) == 50 and set(drawn) < said


def test_classes_of_one_family_are_not_asked_for():
    classes = np.array([4, 4, 4, 4, 7, 7, 1, 1, 1])
    family = np.array(list("aababbccc"))
    shared = probes.shared_classes(classes, family)
    assert set(classes[shared]) == {4}
    family = np.array(list("aabaabbcc"))
    assert set(classes[probes.shared_classes(classes, family)]) == {4, 7, 1}
    assert set(classes[probes.shared_classes(classes, family, most=1)]) == {4}
    assert not probes.shared_classes(classes, classes).any()


def test_positions_line_up_with_what_was_predicted_before_each_token():
    from transformers import AutoModelForCausalLM, GPT2Config

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2)
    ).eval()
    ids = [5, 6, 7, 8, 9]
    texts = [([3, 1, 4, 1, 5], 4, "c", "x"), (ids, 3, "a", "y"), (ids[:4], 2, "b", "x")]
    found = probes.positions(model, texts, [0, 2])
    assert found.template.tolist() == list("bbcaa")  # shorter texts first
    assert found.family.tolist() == list("xxxyy")
    assert found.token.tolist() == [7, 8, 5, 8, 9]
    assert found.before.tolist() == [6, 7, 1, 7, 8]
    assert found.step.tolist() == [0, 1, 0, 0, 1]
    out = model(torch.tensor([ids]), output_hidden_states=True)
    p = out.logits[0, 2].detach().softmax(-1)
    assert found.entropy[3] == pytest.approx(float(-(p * p.log()).sum()), abs=1e-5)
    assert found.runner_up[3] == int(p.topk(2).indices[1])
    state = out.hidden_states[2][0, 3].detach()
    assert np.allclose(found.hidden[2][3], state, atol=1e-5)


def test_probes_are_summed_up_against_the_best_baseline():
    from transformers import AutoModelForCausalLM, GPT2Config

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        GPT2Config(
            vocab_size=12,
            n_embd=16,
            n_layer=2,
            n_head=2,
            bos_token_id=0,
            eos_token_id=0,
        )
    ).eval()
    kinds = [(f"t{i % 6}", f"f{i % 3}") for i in range(60)]
    texts = [(RNG.integers(0, 12, 9).tolist(), 3, *kind) for kind in kinds]
    table = probes.compare_probes(model, texts, [1, 2], main=1)
    score, gains = probes.probe_scores(table), probes.probe_gains(table, main=1)
    assert list(gains) == ["entropy_gain", "shuffled_r2", "runner_up_gain"]
    assert all(gain.n > 100 for gain in gains.values())  # positions, not templates
    value = score[score.probe == "H(p_t), R2"].set_index("features").value
    best = max(value[["token + template", "random init", "shuffled labels"]])
    assert gains["entropy_gain"].value == pytest.approx(value["layer 1"] - best)
    assert gains["shuffled_r2"].value < 0.05


def test_the_gain_is_over_the_best_baseline_of_each_probe():
    nan = float("nan")
    sets = {  # squared errors of four positions, and whether the runner-up was named
        "layer 1": ([0.5, 0.5, 0, 0], [1, 1, 1, nan]),
        "layer 2": ([0, 0, 0, 0], [nan] * 4),
        "token + template": ([0.5] * 4, [0, 0, 1, nan]),
        "random init": ([1.0] * 4, [1, 0, 1, nan]),
        "shuffled labels": ([1.25] * 4, [0, 0, 0, nan]),
    }
    column = {"family": list("aabb"), "mean_squared_error": 1.0}
    table = pd.concat(
        pd.DataFrame({"features": name, "hit": hit, "squared_error": se, **column})
        for name, (se, hit) in sets.items()
    )
    score, gains = probes.probe_scores(table), probes.probe_gains(table, main=1)
    value = score.set_index(["probe", "features"]).value
    assert value["H(p_t), R2"].to_dict() == {
        "layer 1": 0.75,
        "layer 2": 1,
        "token + template": 0.5,
        "random init": 0,
        "shuffled labels": -0.25,
    }
    assert value["runner-up, accuracy"].to_dict() == pytest.approx(
        {
            "layer 1": 1,
            "token + template": 1 / 3,
            "random init": 2 / 3,
            "shuffled labels": 0,
        }
    )
    # over the token for the entropy, over the random model for the runner-up
    assert {name: (gain.value, gain.n) for name, gain in gains.items()} == {
        "entropy_gain": (0.25, 4),
        "shuffled_r2": (-0.25, 4),
        "runner_up_gain": (pytest.approx(1 / 3), 3),
    }
    entropy, second = gains["entropy_gain"], gains["runner_up_gain"]
    assert (entropy.low, entropy.high) == (0, 0.5)  # one family, or the other
    assert (second.low, second.high) == (0, 0.5)
