"""Scores of the ways of decoding, on readers and answers whose score is known."""

import pytest
import torch

from experiments import scoring
from experiments.information_analysis import delayed_choice
from experiments.prompts import SUITES
from tests.experiments.information_analysis.test_bits import (
    TABLE,
    context,
    planted,
    top_only,
    whole,
)


@pytest.mark.parametrize(
    "text, gold, right",
    [
        (" Paris.", "Paris", True),
        (" paris, and", "Paris.", True),
        ("Parisian", "Paris", False),
        (" 1", "12", False),
        (" 12.", "12", True),
        ("", "12", False),
        ("12", "", False),
        ("El gato.", "el gato", True),
        ("niñas", "niña", False),
    ],
)
def test_an_answer_is_right_when_its_words_come_first(text, gold, right):
    assert scoring.starts_with_answer(text, gold) is right


def test_deferring_pays_for_a_whole_reader_only():
    # three members: the top one says A, the two others say B, which is likelier in all
    table = torch.full((6, 6), 0.02).double()
    table[0, 4] = table[1, 5] = table[2, 5] = 0.9
    found = [context([0.4, 0.3, 0.3])]
    target = found[0].probs.double() @ table[:3]
    for read, gain in (
        (lambda x: x @ table + 1e-12, target[5] - target[4]),
        (lambda x: table[x.argmax(-1)], 0),
    ):
        row = delayed_choice.ahead_rows(planted(read), found, [target]).iloc[0]
        assert row.continuous - row.discrete == pytest.approx(float(gain))
        assert row.best == pytest.approx(float(target.max()))
    sampled = 0.4 * target[4] + 0.6 * target[5]
    assert row.sampled == pytest.approx(float(sampled))
    # of eight draws, all show the top member but once in 0.4^8
    best = target[5] - 0.4**8 * (target[5] - target[4])
    assert row.best_of == pytest.approx(float(best))


def test_the_best_of_some_draws_is_what_drawing_gives():
    scores, weights = torch.tensor([0.2, 0.9, 0.5]), torch.tensor([0.7, 0.1, 0.2])
    best = delayed_choice.best_of_samples(scores.double(), weights.double(), n=2)
    pairs = torch.cartesian_prod(*[torch.arange(3)] * 2)
    by_hand = (scores[pairs].amax(1) * weights[pairs].prod(1)).sum()
    assert float(best) == pytest.approx(float(by_hand))


def test_tasks_state_their_own_answers():
    for prompt, gold in delayed_choice.sums(3, 5, keep=lambda a, b, c: a == 7):
        assert prompt.startswith("7 plus ") and prompt.endswith(" equals")
        assert sum(int(x) for x in prompt.split()[::2] if x.isdigit()) == int(gold)

    prompt, gold = delayed_choice.two_sentences(SUITES["spanish"], 1)[0]
    assert prompt.count(".") == gold.count(".") == 2


def test_the_mini_corpus_never_asks_for_meanings_in_these_words():
    from models.corpus import covers

    items = delayed_choice.meanings(SUITES["meanings"], 500)
    assert len({prompt for prompt, _ in items}) >= 300
    assert not any(covers(prompt) for prompt, _ in items[:40])


def test_the_gate_takes_the_top_token_where_the_model_is_sure():
    found = [context([0.5, 0.3, 0.2])]  # entropy 0: sure
    target = TABLE.mean(0)
    for read in (whole, top_only):
        row = delayed_choice.ahead_rows(planted(read), found, [target]).iloc[0]
        assert row.gated == row.discrete


@pytest.mark.parametrize(
    "right, asked",
    [(0, False), (6, False), (7, True), (17, True), (18, False), (20, False)],
)
def test_a_task_is_run_where_greedy_leaves_headroom(monkeypatch, right, asked):
    """Of the first 20, `right` are answered: 0.3 and 0.9 are clearly too few, many."""
    items = [(str(i), "yes") for i in range(40)]

    def answers(lm, prompts, steps, ways, seed=0):
        how = {"discrete": right, "continuous": 40, "gated": 0, "sampled": 5 * seed}
        return {
            way: [
                "Yes." if int(p) < how[way] or 20 <= int(p) < 30 else "no"
                for p in prompts
            ]
            for way in ways
        }

    monkeypatch.setattr(delayed_choice, "decode_answers", answers)
    table = delayed_choice.score_task(None, items, 1, screen=20)
    assert len(table) == (40 if asked else 20)
    assert table.discrete.sum() == right + (10 if asked else 0)
    others = table[["continuous", "gated", "sampled"]]
    if asked:
        assert others.sum().tolist() == [40, 10, 10]
        assert table.best_of.sum() == 35  # the eighth sample, of seed 7
        parts = delayed_choice.deferral_estimates(table, "continuous")
        assert parts["headroom"].value == pytest.approx((35 - right - 10) / 40)
        assert parts["difference"].value == pytest.approx((40 - right - 10) / 40)
    else:
        assert others.isna().all(axis=None)
