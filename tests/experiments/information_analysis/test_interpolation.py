"""lambda* of mixtures and readers whose answer is known."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.information_analysis import interpolation
from experiments.metrics import js_bits
from tests.experiments.information_analysis.test_bits import (
    context,
    deaf,
    planted,
    top_only,
    whole,
)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1))
def test_the_mixing_weight_of_an_exact_mixture_is_its_weight(seed, share):
    generator = torch.Generator().manual_seed(seed)
    one, two = (9 * torch.rand(2, 1, 7, generator=generator).double()).softmax(-1)
    mixed = share * one + (1 - share) * two
    found, residual = interpolation.fit_interpolation(mixed, one, two)
    # JS is quadratic at its minimum, so it pins the share to about its square root
    assert float(residual) < 1e-9
    if float(js_bits(one, two)) > 0.05:
        assert float(found) == pytest.approx(share, abs=1e-4)


def test_a_linear_reader_gives_a_line_and_a_top_reader_a_step():
    grid = [0, 0.25, 0.4, 0.6, 0.75, 1]
    rows = interpolation.interpolation_rows(
        planted(whole), [context([0.5, 0.5])], grid=grid
    )
    assert rows["lambda"].tolist() == pytest.approx(grid, abs=1e-3)
    assert rows.residual.max() < 1e-6
    rows = interpolation.interpolation_rows(
        planted(top_only), [context([0.5, 0.5])], grid=grid
    )
    assert rows["lambda"].round(3).tolist() == [0, 0, 0, 1, 1, 1]


def test_pairs_that_predict_the_same_are_left_out():
    assert interpolation.interpolation_rows(
        planted(deaf), [context([0.5, 0.5])], grid=[0, 1]
    ).empty


def test_a_line_and_a_step_are_told_apart_pair_by_pair():
    found = [context([0.5, 0.5]), context([0.4, 0.3, 0.3], 1)]
    rows = interpolation.interpolation_rows(planted(whole), found)
    pairs = interpolation.interpolation_pairs(rows)
    assert len(pairs) == 2 and pairs.linear.max() < 1e-3 and pairs.left.max() < 1e-3
    pairs = interpolation.interpolation_pairs(
        interpolation.interpolation_rows(planted(top_only), found)
    )
    assert pairs.stepped.max() == pytest.approx(0.5 / 11, abs=1e-3)  # undecided at 1/2
    assert pairs.linear.min() > 0.15
