"""Divergences against closed forms; repetition and likeness of sequences by hand."""

import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from experiments import metrics


def test_divergences_against_closed_forms():
    fair, sure = torch.tensor([0.5, 0.5]), torch.tensor([1.0, 0.0])
    assert metrics.entropy(fair).item() == pytest.approx(math.log(2))
    assert metrics.entropy_bits(torch.full((3, 8), 1 / 8)).tolist() == pytest.approx(
        [3] * 3
    )
    assert metrics.kl_divergence(sure, fair).item() == pytest.approx(math.log(2))
    assert metrics.kl_divergence(fair, sure).item() == math.inf
    assert metrics.js_bits(sure, torch.tensor([0.0, 1.0])).item() == pytest.approx(1.0)
    assert metrics.js_divergence(fair, fair).item() == 0.0
    with pytest.raises(ValueError, match="probabilities"):
        metrics.entropy(torch.tensor([0.5, -0.5]))


weights = st.lists(st.floats(0, 1), min_size=4, max_size=4).filter(
    lambda w: sum(w) > 0.1
)


@settings(max_examples=50)
@given(weights, weights)
def test_js_is_symmetric_bounded_and_zero_only_for_equals(p, q):
    p, q = torch.tensor(p), torch.tensor(q)
    forward, back = metrics.js_bits(p, q).item(), metrics.js_bits(q, p).item()
    assert forward == pytest.approx(back, abs=1e-12)
    assert -1e-12 <= forward <= 1 + 1e-12
    assert metrics.kl_divergence(p, q).item() >= 0


@given(st.integers(0, 10**6), st.floats(0.05, 0.95))
@example(6702, 0.125)  # the two likeliest are nearly tied: it takes a power above 2^8
@settings(max_examples=20, deadline=None)
def test_a_distribution_is_made_as_flat_as_asked_and_keeps_its_ranking(seed, share):
    scores = torch.rand(2, 8, generator=torch.Generator().manual_seed(seed)).double()
    p, target = (8 * scores).softmax(-1), share * math.log(8)
    flat = metrics.with_entropy(p, target)
    assert torch.allclose(metrics.entropy(flat), torch.tensor(target).double())
    assert bool((flat.gather(-1, p.argsort()).diff() >= 0).all())


def test_the_same_entropy_is_the_same_distribution():
    p = torch.tensor([0.6, 0.3, 0.1, 0.0]).double()
    assert torch.allclose(metrics.with_entropy(p, metrics.entropy(p)), p)
    flat = metrics.with_entropy(p, 9.0)  # out of reach: no error
    assert flat[3] == 0 and torch.allclose(flat[:3], torch.tensor(1 / 3).double())
    with pytest.raises(ValueError, match="finite"):
        metrics.with_entropy(p, float("nan"))


def test_repetition_and_likeness():
    assert metrics.distinct_n([1, 2, 3, 4], 2) == 1.0
    assert metrics.distinct_n([1, 1, 1, 1], 2) == pytest.approx(1 / 3)
    assert metrics.distinct_n([1], 2) == 1.0
    assert metrics.loops([5, 6] * 20) and not metrics.loops(range(40))
    assert metrics.rouge_l([1, 2, 3], [1, 3]) == pytest.approx(0.8)
    assert metrics.rouge_l([], []) == 1.0 and metrics.rouge_l([1], []) == 0.0
    assert metrics.token_agreement([1, 2, 3], [1, 9]) == pytest.approx(1 / 3)
    assert metrics.token_agreement(torch.tensor([1, 2]), [1, 2]) == 1.0
    with pytest.raises(ValueError, match="n=0"):
        metrics.distinct_n([1], 0)
