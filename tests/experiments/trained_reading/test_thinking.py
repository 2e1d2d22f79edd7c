"""Signed sums, the models that think about them, and planted ones in their place."""

import itertools

import pytest
import torch
from torch.nn.functional import one_hot

from experiments.trained_reading import exploring, signed_sums, thinking
from experiments.trained_reading.signed_sums import VOCABULARY, sum_id, sum_name
from harness import claims, judge

KNOWN, HELD_OUT = signed_sums.split()
FEW = HELD_OUT.take(torch.arange(0, len(HELD_OUT), 7))
ASKED = HELD_OUT.take(torch.arange(1000))


def test_answers_and_targets_are_those_of_all_choices_of_signs():
    problem = exploring.find(signed_sums.all_problems(), [3, 1, 4, 2])
    numbers = [3, 1, 4, 2]
    choices = list(itertools.product((1, -1), repeat=4))
    totals = [sum(s * d for s, d in zip(signs, numbers)) for signs in choices]
    assert (
        problem.answer.item() == sum_id(min(t for t in totals if t >= 0)) == sum_id(0)
    )
    second = [signs[0] * 3 + signs[1] * 1 for signs in choices]
    for value in range(-8, 9):
        share = problem.spread[0, 1, sum_id(value)].item()
        assert share == pytest.approx(second.count(value) / 16)
    assert problem.trace[0, -1] == problem.answer[0]
    with pytest.raises(ValueError, match="not among"):
        exploring.find(KNOWN.take(torch.tensor([0])), [9, 9, 9, 9])


def test_no_held_out_problem_is_a_permutation_of_a_trained_one():
    def kinds(p):
        return {tuple(sorted(row)) for row in p.numbers.tolist()}

    assert not kinds(KNOWN) & kinds(HELD_OUT)
    assert len(HELD_OUT) >= 1000 and len(KNOWN) + len(HELD_OUT) == 10_000
    assert torch.allclose(KNOWN.spread.sum(-1), torch.ones(len(KNOWN), 4))


def test_tokens_have_names():
    named = [sum_name(i) for i in (0, 9, sum_id(-3), sum_id(0), sum_id(40))]
    assert named == ["1", "10", "-3", "0", "+40"]
    assert len({sum_name(i) for i in range(VOCABULARY)}) == VOCABULARY


@pytest.mark.parametrize("kind", thinking.KINDS)
def test_training_is_seeded_and_learns(kind):
    def loss(model):
        with torch.no_grad():
            return float(thinking._loss(model, kind, FEW, done=0.9))

    model = thinking.train(kind, KNOWN, width=16, seed=3, steps=12)
    again = thinking.train(kind, KNOWN, width=16, seed=3, steps=12)
    pairs = zip(model.parameters(), again.parameters())
    assert all(torch.equal(a, b) for a, b in pairs)
    assert loss(model) < loss(thinking.new_model(16, 3))
    with pytest.raises(ValueError, match="expected one of mixture"):
        thinking.train("thought", KNOWN)


def test_thoughts_fed_one_by_one_are_those_fed_at_once():
    model = thinking.new_model(16).eval()
    weights = {t: FEW.spread[:, t] for t in range(3)}
    found = thinking.think(model, FEW, "soft", fixed=weights)
    with torch.no_grad():
        table = model.transformer.wte.weight
        expected = thinking._in_parallel(model, FEW, FEW.spread[:, :3] @ table)
    assert torch.allclose(found, expected, atol=1e-5)


def test_each_way_feeds_what_it_says():
    p = (torch.rand(6, VOCABULARY) * 6).softmax(-1)
    top = p.argmax(-1)

    def fed(way):
        return thinking._weights(p, way, torch.Generator().manual_seed(0))

    assert torch.equal(fed("soft"), p)
    assert fed("top").max(-1).values.eq(1).all() and torch.equal(
        fed("top").argmax(-1), top
    )
    shuffled = fed("shuffled")
    assert torch.equal(shuffled.sort().values, p.sort().values)
    assert torch.equal(shuffled.argmax(-1), top) and not torch.equal(shuffled, p)
    four = fed("4 draws")
    assert torch.allclose(four.sum(-1), torch.ones(6)) and (four * 4 % 1 == 0).all()
    assert torch.equal(
        fed("other").sum(0), p[torch.randperm(6)].sum(0)
    ) or torch.allclose(fed("other").sum(0), p.sum(0))


# --- planted thinkers, whose verdicts are known beforehand ---------------------------


def planted(reads):
    """Say what a thinker would that goes on from what it is fed, or from nothing.

    "whole" goes on from every partial sum it is fed, by its weight; "top" from the
    likeliest; "deaf" works everything out from the numbers, whatever it is fed.
    """

    def think(model, problems, way, seed=0, fixed=None):
        draw = torch.Generator().manual_seed(seed)
        ways = (way,) * 3 if isinstance(way, str) else way
        said, fed = [], None
        for t in range(4):
            step = problems.numbers[:, t] + 1
            if model == "token":  # knows the best trace, and is lost once off it
                on = t == 0 or fed.argmax(-1) == problems.trace[:, max(t, 1) - 1]
                p = one_hot(problems.trace[:, t] * on, VOCABULARY)
            elif t == 0 or reads == "deaf":
                p = problems.spread[:, t]
            else:
                p = torch.zeros_like(fed)
                for sign in (1, -1):
                    at = (torch.arange(VOCABULARY) + sign * step[:, None]).clamp(0, 91)
                    p = p.scatter_add(1, at, fed / 2)
                p[:, :10] = p[:, 91:] = 0
                if t == 3:  # the least of what is left that is not below 0
                    reached = (p > 1e-6) & (torch.arange(VOCABULARY) >= sum_id(0))
                    p = one_hot(reached.int().argmax(-1), VOCABULARY)
            p = p.float()
            said.append(p.clamp_min(1e-12).log())
            if "soft" not in ways and {"pause", "hidden"} & {*ways}:
                ways = ("soft",) * 3  # not theirs to tell apart
            fed = thinking._weights(
                p, "top" if reads == "top" else ways[min(t, 2)], draw
            )
            if fixed and t in fixed:
                fed = fixed[t]
        return torch.stack(said, 1)

    return think


def parts_of(monkeypatch, reads):
    monkeypatch.setattr(exploring, "think", planted(reads))
    models = {kind: kind for kind in thinking.KINDS}
    right = exploring.right_answers(models, ASKED)
    found = exploring.answer_parts(right) | {"T4": exploring.wrong_turn(models, ASKED)}
    return found, models


def verdict(claim, parts):
    rows = [
        claims.measured(claim, name, e, cell="planted") for name, e in parts.items()
    ]
    return judge.judge(claim, rows, "mini").verdict


def test_a_reader_of_the_whole_mixture_explores_and_a_deaf_one_does_not(monkeypatch):
    whole, models = parts_of(monkeypatch, "whole")
    assert whole["T2"]["soft"].value == 1
    assert whole["T2"]["soft_over_top"].low > 0.3
    assert whole["T4"]["recovered"].value == 0 and whole["T4"]["kept"].value > 0.8
    assert whole["T4"]["followed"].value == 1
    assert verdict("T4", whole["T4"]) == "not reproduced"
    left = exploring.left_out(None, ASKED)
    assert left["follows"].value > 0.95 and left["recovered"].value < 0.01
    rows = exploring.branch_rows(None, FEW)
    assert (rows.share - rows.w).abs().max() < 1e-6
    deaf, _ = parts_of(monkeypatch, "deaf")
    assert deaf["T2"]["soft_over_top"].value == 0
    assert verdict("T2", deaf["T2"]) == "not reproduced"
    # it never went wrong: nothing to come back from
    assert deaf["T4"]["recovered"].value == 1 and deaf["T4"]["followed"].value < 0.75
    assert verdict("T4", deaf["T4"]) == "not tested"
    rows = exploring.branch_rows(None, FEW)
    assert (rows.share - 0.5).abs().max() < 1e-6
    assert exploring.left_out(None, ASKED)["recovered"].value == 1
