"""The parts that notebook 01 measures are those that the rules need."""

import csv

import numpy as np
import pandas as pd
import pytest

from experiments.generation import (
    appendix,
    early_stopping,
    greedy_identity,
    norms,
    sharpening,
    trajectories,
)
from experiments.prompts import SUITES, prompt_suite, template_of
from experiments.stats import Estimate
from harness.claims import claim_row, rule_parts
from harness.clauses import parse_rule
from harness.run.options import SIZES
from helpers import MixtureConfig, generate_concepts, load, next_logits, prompt_embeds
from models.corpus import covers


@pytest.mark.parametrize("name", ["mini-gpt2", "mini-qwen2"])
def test_the_measured_parts_are_those_of_the_rules(name):
    lm = load(name, device="cpu")
    prompts = prompt_suite(SUITES, 6)
    templates = [template_of(prompt) for prompt in prompts]
    found = {
        "G1": greedy_identity.identity_parts(
            greedy_identity.identity_rows(lm, prompts, 6)
        )
    }
    logits = next_logits(lm, *prompt_embeds(lm, prompts))
    gaps = sharpening.sharpening_rows([logits], MixtureConfig(), n_random=40)
    found["G2"] = sharpening.sharpening_parts(gaps)
    chains = trajectories.run_chains(lm, prompts, 6)
    said = trajectories.chain_rows(lm, prompts, chains, covers)
    found["G7"] = trajectories.chain_parts(said)
    trace = chains[trajectories.UNCLIPPED].trace
    steps = norms.step_rows(lm, trace)
    found["G4"] = norms.drift_parts(steps)
    greedy = list(said[said.kind == "greedy"].ids)
    clips = norms.clip_rows(lm, prompts, trace, greedy)
    found["G3"] = norms.range_parts(clips, steps)["all rows"]
    free = generate_concepts(lm, prompts, 30, early_stopping.FREE)
    runs = early_stopping.free_runs(free, templates)
    lengths = early_stopping.stop_lengths(runs, *early_stopping.AS_CODED)
    rows = early_stopping.stop_rows(runs, lengths)
    looping = early_stopping.loop_rate(free, templates)
    found["G5"] = early_stopping.stop_parts(rows, looping)
    snippet = appendix.snippet_rows(logits, lm.embed)
    changed = appendix.clipped_rates(lm, trace)
    found["G8"] = appendix.snippet_parts(snippet, changed, prompts, runs)
    for claim, own in found.items():
        assert set(rule_parts(claim)) <= set(own), claim
    # what holds whatever the model has learnt
    assert all(part.value == 0 for part in found["G1"].values())
    assert found["G2"]["deviation"].value < 1e-12
    assert found["G3"]["hull_violations"].value == 0
    assert (steps.ratio <= 1 + 1e-9).all()
    assert found["G8"]["weight_deviation"].value < 1e-9
    assert found["G8"]["batch_failure_rate"].value == 1


def test_larger_models_are_asked_enough_for_the_rules():
    """models/sizes.csv takes no claim of this notebook below the n its rule needs."""
    rows = [row for row in csv.DictReader(SIZES.open()) if row["notebook"][:2] == "01"]
    for claim in ("G1", "G3", "G4", "G5", "G7", "G8"):
        clauses = parse_rule(claim_row(claim)["rule"])
        (least,) = (int(c.arguments[1]) for c in clauses if c.check == "count")
        name = "N_LOOPS" if claim == "G5" else "N_PROMPTS"
        for row in (row for row in rows if row["parameter"] == name):
            n = int(row["value"])
            assert (n // 2 if claim == "G5" else n + 2) >= least, (claim, row)


def test_the_parts_of_g1_g2_and_g8_by_hand():
    ids = pd.DataFrame({
        "part": list("aaabb"), "prompt": [0, 1, 1, 0, 1],
        "equal": [True, True, False, True, True],  # prompt 1 differs on its own
    })  # fmt: skip
    found = greedy_identity.identity_parts(ids)
    assert {k: (e.value, e.high, e.n) for k, e in found.items()} == {
        "a": (1, 1, 2), "b": (0, 0, 2),
    }  # fmt: skip
    gaps = sharpening.sharpening_parts(pd.DataFrame({"gap": [0.1, 0.3, 0.2]}))
    assert gaps["deviation"] == Estimate(0.3, 0.3, 0.3, 3)
    rows = {"weight_gap": [0.1, 0.4, 0.2, 0.0], "batch_fails": [True] * 3 + [False]}
    prompts, calm = prompt_suite(SUITES, 2), [0.0] * 9
    awake = [2.0] * 9
    runs = [
        early_stopping.FreeRun(template, nats, np.zeros(10), np.zeros(10))
        for template, nats in zip("abcc", (awake, calm, awake, awake[:5]))
    ]
    found = appendix.snippet_parts(pd.DataFrame(rows), [0.5, 0, 0, 0], prompts, runs)
    assert {k: e.value for k, e in found.items()} == {
        "weight_deviation": 0.4, "batch_failure_rate": 0.75,
        "vector_difference_rate": 0.125, "length_difference_rate": 0.25,
    }  # fmt: skip
