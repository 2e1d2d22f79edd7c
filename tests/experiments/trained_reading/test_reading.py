"""Readers trained from mini-gpt2, the measure of what they read, and planted ones."""

import copy

import pandas as pd
import pytest
import torch

from experiments.metrics import nearest_rows
from experiments.prompts import SUITES, sample_open
from experiments.stats import Estimate
from experiments.trained_reading import reader, reading
from experiments.translation import in_loop
from harness import claims, judge
from helpers.mixture import MixtureConfig
from helpers.models import LM, load
from tests.experiments.weight_rules.test_weight_rules import ITEMS, SIZE, Reader
from tests.tiny import OneToken, unchecked

ASKED = sample_open(SUITES, 24, 0)


@pytest.fixture(scope="module")
def lm():
    return load("mini-gpt2", "cpu")


def deaf(lm):
    """Plant a reader that hears, in place of a vector, the token nearest to it."""
    model, table = copy.deepcopy(lm.model), lm.embed

    def snap(module, args, inputs):
        if inputs.get("inputs_embeds") is not None:
            nearest = nearest_rows(inputs["inputs_embeds"], table)
            inputs["inputs_embeds"] = table[nearest]
        return args, inputs

    model.register_forward_pre_hook(snap, with_kwargs=True)
    return LM(model, lm.tokenizer, "deaf")


def test_planted_readers_read_all_and_nothing():
    shares = {}
    for reads in ("whole", "top"):
        planted = LM(unchecked(Reader(reads)), OneToken(SIZE), reads)
        shares[reads] = reading.read_share(reading.reading_rows(planted, ITEMS)).value
    assert shares["whole"] == pytest.approx(1, abs=0.01)
    assert shares["top"] == pytest.approx(0, abs=0.01)


def test_the_measure_is_that_of_notebook_02(lm):
    rows = reading.reading_rows(lm, ASKED)
    found = in_loop.loop_divergences(lm, [i.prompt for i in ASKED], 1, MixtureConfig())
    for column in ("mixture", "top", "flat"):
        assert rows[column].tolist() == pytest.approx(found[column].tolist(), abs=1e-5)


def test_the_planted_deaf_reader_stays_deaf(lm):
    before = reading.read_share(reading.reading_rows(deaf(lm), ASKED))
    assert before.value == pytest.approx(0, abs=0.02)
    model = reader.train_reader(deaf(lm), "chores", "reader", 0, steps=6)
    after = reading.read_share(reading.reading_rows(LM(model, lm.tokenizer), ASKED))
    assert after.value == pytest.approx(0, abs=0.02)


def test_an_update_is_what_was_trained(lm):
    ids = torch.tensor([lm.tokenizer(ASKED[0].prompt)["input_ids"]])
    with torch.no_grad():
        before = lm.model(input_ids=ids).logits
        nothing = reader.merge(lm, reader.update_of(lm.model, lm.model))
        assert torch.equal(nothing.model(input_ids=ids).logits, before)
    model = reader.train_reader(lm, "places", "reader", 0, steps=4)
    found = reader.merge(lm, reader.update_of(model, lm.model))
    with torch.no_grad():
        trained = model(input_ids=ids).logits
        merged = found.model(input_ids=ids).logits
        assert torch.equal(lm.model(input_ids=ids).logits, before)  # a copy was trained
    apart = (trained - before).norm()
    assert apart > 0.1 and (merged - trained).norm() < apart / 2


def test_a_reader_learns_and_its_control_has_little_to_learn(lm):
    """A control is trained on what the model was trained on, and predicts already."""
    draw, ids = torch.Generator, next(reader.contexts(lm, "chores", 5))

    def loss(kind, model):
        of = {"reader": reader._reader_loss, "control": reader._control_loss}[kind]
        with torch.no_grad():
            return float(of(model, lm.model, ids, 2, draw().manual_seed(1)))

    found = {
        kind: loss(kind, reader.train_reader(lm, "chores", kind, 0, steps=8))
        - loss(kind, lm.model)
        for kind in reader.KINDS
    }
    assert found["reader"] < -0.02 and abs(found["control"]) < 0.02


@pytest.mark.parametrize("fold", reader.FOLDS)
def test_no_reader_trains_on_a_sentence_like_those_it_is_asked(lm, fold):
    batches = reader.contexts(lm, fold, seed=0)
    seen = [lm.tokenizer.decode(row) for _ in range(20) for row in next(batches)]
    assert len({*seen}) > 50
    asked = {i.prompt for i in ASKED if reading.fold_of(i.prompt) == fold}
    assert asked and not any(prompt in text for prompt in asked for text in seen)
    assert not any(word in text for word in reader.FOLDS[fold] for text in seen)


def frame(mixture, top=0.2, flat=0.2):
    rows = [
        {"prompt": str(b), "template": f"{b % 8}", "top": top, "flat": flat}
        | {"mixture": mixture}
        for b in range(80)
    ]
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    "before,after,control,change,verdict",
    [
        (0.2, 0.05, 0.2, 0.0, "reproduced"),
        (0.05, 0.05, 0.05, 0.0, "partly"),  # read before: nothing needed training
        (0.2, 0.2, 0.2, 0.0, "partly"),  # not read before nor after
        (0.05, 0.05, 0.05, 0.5, "not tested"),  # no longer a language model
    ],
)
def test_t1_says_what_was_planted(before, after, control, change, verdict):
    rows = {"before": frame(before), "reader": frame(after), "control": frame(control)}
    parts = reading.reading_parts(rows)
    parts["nll_change"] = Estimate.exact(change, 60)
    assert parts["read_after"].value == pytest.approx(1 - after / 0.2)
    measured = [claims.measured("T1", k, e, cell="planted") for k, e in parts.items()]
    assert judge.judge("T1", measured, "mini").verdict == verdict
