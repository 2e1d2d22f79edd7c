"""Scores of the ways of decoding, on readers and answers whose score is known."""

import pandas as pd
import pytest
import torch

from experiments import scoring
from experiments.information_analysis import delayed_choice
from experiments.prompts import SUITES, suites
from helpers import load
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
    keep = lambda a, b, c: a == 7  # noqa: E731
    for prompt, total, _ in delayed_choice.sums(3, 5, keep=keep):
        assert prompt.startswith("7 plus ") and prompt.endswith(" equals")
        assert sum(int(x) for x in prompt.split()[::2] if x.isdigit()) == int(total)

    question = delayed_choice.two_sentences(SUITES["spanish"], 1)[0]
    assert question.prompt.count(".") == 2 == len(question.answer)


def tasks_of(set_name, chat=True):
    lm = load("mini-qwen2", device="cpu")
    return delayed_choice.text_tasks(lm, suites(set_name), 330, chat=chat)


def test_a_mini_model_has_to_say_what_it_was_taught_and_first():
    tasks = tasks_of("mini")
    assert list(tasks) == ["sums of three", "sums of four", "meanings", "two sentences"]
    for questions, _ in tasks.values():
        assert len(questions) == 330
        assert all(isinstance(question.answer, str) for question in questions)
    assert tasks["two sentences"][0][0].answer.count(".") == 2


def test_real_models_are_asked_natural_questions_in_enough_number():
    tasks = tasks_of("smollm2")
    said = delayed_choice.is_correct
    for questions, _ in tasks.values():
        assert 300 <= len(questions) == len({question.prompt for question in questions})
    words = {q.unit: q for q in tasks["Spanish words"][0]}
    assert len(words) == 76 and said('"Perro" means dog.', words["perro"].answer)
    assert not said('"Perro" means cat.', words["perro"].answer)
    lands = {q.unit for q in tasks["capitals"][0]}
    assert {"France", "Peru"} < lands and len(lands) > 40
    (cat, *_) = [q for q in tasks["meanings"][0] if q.unit == "cat"]
    assert said(" a small animal that", cat.answer)
    pair = tasks["two sentences"][0][0].answer
    both = [item.accepted[-1] for item in pair]
    assert said(" ".join(both), pair) and not said(both[0], pair)
    assert not {"two sentences", "instructions"} & set(tasks_of("smollm2", chat=False))


def test_a_text_is_settled_when_more_words_change_nothing():
    settled, item = delayed_choice.is_settled, SUITES["capitals"][0]
    assert not settled(" 1", "12") and not settled(" 12", "12")  # it may become 120
    assert settled(" 12. And", "12") and settled(" 13 or", "12")
    right = f"It is {item.gold}"
    assert not settled(right, (item,)) and settled(right + ", a", (item,))
    assert not settled("It is not known to me, it", (item,))


def test_the_mini_corpus_never_asks_for_meanings_in_these_words():
    from models.corpus import covers

    items = SUITES["meanings"]
    questions = delayed_choice.worded(items, delayed_choice.MEANING_OF, 500)
    assert len({question.prompt for question in questions}) >= 300
    assert not any(covers(question.prompt) for question in questions[:40])


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
    questions = [delayed_choice.Question(str(i), "yes", str(i)) for i in range(40)]

    def answers(lm, prompts, steps, ways, samples, seed, settled):
        def texts(known):
            yes = [int(p) < known or 20 <= int(p) < 30 for p in prompts]
            return ["Yes." if right else "no" for right in yes]

        how = {"discrete": [right], "continuous": [40], "gated": [0]}
        how["sampled"] = [5 * draw for draw in range(samples)]
        return {way: [texts(known) for known in how[way]] for way in ways}

    monkeypatch.setattr(delayed_choice, "decode_answers", answers)
    table = delayed_choice.score_task(None, (questions, 1), screen=20)
    assert len(table) == (40 if asked else 20)
    assert table.discrete.sum() == right + (10 if asked else 0)
    others = table[["continuous", "gated", "sampled"]]
    if asked:
        assert others.sum().tolist() == [40, 10, 10]
        assert table.best_of.sum() == 35  # the eighth sample
        parts = delayed_choice.deferral_estimates(table, "continuous")
        assert parts["headroom"].value == pytest.approx((35 - right - 10) / 40)
        assert parts["difference"].value == pytest.approx((40 - right - 10) / 40)
        assert parts["difference"].n == 40
    else:
        assert others.isna().all(axis=None)


def test_wordings_of_one_question_are_drawn_together():
    """Ten questions, four wordings each, all right or all wrong by the question."""
    right = [float(i < 6) for i in range(10) for _ in range(4)]
    table = pd.DataFrame({"discrete": right, "continuous": 1.0, "best_of": 1.0})
    table["unit"] = [str(i) for i in range(10) for _ in range(4)]
    parts = delayed_choice.deferral_estimates(table, "continuous")
    single = delayed_choice.deferral_estimates(
        table.assign(unit=range(40)), "continuous"
    )
    wide, narrow = (p["difference"].high - p["difference"].low for p in (parts, single))
    assert wide > 1.6 * narrow and parts["difference"].n == 40
