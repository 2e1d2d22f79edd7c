"""Recovery of mixture weights, on cases whose answer is known."""

import numpy as np
import pytest
import torch

from experiments.information_analysis import solvers, weight_recovery


def table(count=120, width=24, seed=0):
    return np.random.default_rng(seed).standard_normal((count, width)) + 0.5


def planted(embed, indices, weights):
    true = np.zeros(len(embed))
    true[indices] = weights
    return true, true @ embed


def test_known_support_on_an_orthogonal_basis_is_exact():
    weights, kappa = solvers.known_support([0.5, 0.3, 0.2, 0], 2 * np.eye(4)[:3])
    assert np.allclose(weights, [0.25, 0.15, 0.1]) and kappa == pytest.approx(1)


def test_condition_number_is_the_ratio_of_the_axes():
    assert solvers.known_support(np.ones(2), np.diag([100.0, 1]))[1] == 100


def test_more_rows_than_dimensions_is_never_called_determined():
    assert solvers.known_support(np.ones(3), np.ones((4, 3)))[1] == np.inf
    assert solvers.known_support(np.ones(3), np.ones((2, 3)))[1] > 1e12


@pytest.mark.parametrize("shape", ["flat", "peaked"])
def test_every_reader_finds_three_tokens(shape):
    embed, weights = table(), weight_recovery.planted_weights(3, shape)
    true, concept = planted(embed, [7, 50, 3], weights)
    for found in (
        solvers.nnls_recover([concept], embed)[0],
        solvers.omp_recover([concept], embed, [3])[0],
    ):
        assert np.allclose(found, true, atol=1e-9)


@pytest.mark.parametrize("width", [16, 40])
def test_column_generation_equals_the_whole_problem(monkeypatch, width):
    embed = table(400, width).astype(np.float32)
    rng = np.random.default_rng(0)
    outside = rng.standard_normal((4, width))  # of the hull: one solution is best
    inside = planted(embed, [3, 50], [0.7, 0.3])[1]
    points = np.vstack([outside, inside])
    whole = solvers.nnls_recover(points, embed)
    monkeypatch.setattr(solvers, "MOST_ENTRIES", 0)
    by_columns = solvers.nnls_recover(points, embed)
    assert np.allclose(by_columns, whole, atol=1e-5) and (by_columns >= 0).all()


def test_column_generation_ends_among_rows_that_are_alike(monkeypatch):
    monkeypatch.setattr(solvers, "MOST_ENTRIES", 0)
    embed = np.repeat(table(30, 8), 4, axis=0).astype(np.float32)
    found = solvers.nnls_recover(embed[[0, 40]].mean(0)[None], embed)[0]
    assert found[:4].sum() == pytest.approx(0.5, abs=1e-4)
    assert found[40:44].sum() == pytest.approx(0.5, abs=1e-4)


def test_matching_pursuit_equals_scikit_learns():
    from sklearn.linear_model import orthogonal_mp

    embed = table(300, 24)
    mixtures = weight_recovery.planted_mixtures(300, (2, 6, 12), repeats=2)
    points = np.stack([w @ embed[ids] for _, ids, w in mixtures])
    found = solvers.omp_recover(points, embed, [len(ids) for _, ids, _ in mixtures])
    centred = embed - embed.mean(0)
    norms = np.linalg.norm(centred, axis=1)
    for got, point, (_, ids, _) in zip(found, points, mixtures):
        atoms, target = (centred / norms[:, None]).T, point - embed.mean(0)
        right = orthogonal_mp(atoms, target, n_nonzero_coefs=len(ids)) / norms
        assert np.allclose(got, right, atol=1e-8)


def test_a_doubled_row_cannot_be_told_from_its_twin():
    embed = table()
    embed[9] = embed[4]
    _, concept = planted(embed, [4], [1.0])
    found = solvers.nnls_recover([concept], embed)[0]
    assert found[[4, 9]].sum() == pytest.approx(1)
    assert solvers.known_support(concept, embed[[4, 9]])[1] > 1e12


def test_score_counts_the_weight_that_is_in_the_wrong_place():
    got = weight_recovery.score([0.6, 0.3, 0.1, 0], [0.6, 0.2, 0.1, 0.1])
    assert got["max_error"] == pytest.approx(0.1)
    assert got["misplaced"] == pytest.approx(0.1) and not got["recovered"]
    assert got["f1"] == pytest.approx(6 / 7)


def test_flat_mixtures_break_before_the_width_and_peaked_later():
    embed = torch.tensor(table(200, 32), dtype=torch.float32)
    mixtures = weight_recovery.planted_mixtures(200, (2, 4, 16, 24), repeats=2)
    rows = weight_recovery.recovery_rows(embed, mixtures, extra=["random"])
    found = rows[rows.method == "nnls"]
    assert found[found.k <= 4].recovered.all()
    flat = found[(found.label == "flat") & (found.dtype == "float32")]
    assert weight_recovery.breaking_point(flat) in (16, 24)
    assert not rows[rows.method == "random"].recovered.any()
    known = rows[(rows.method == "known") & (rows.dtype == "float32")]
    assert known.recovered.all() and np.isfinite(known.kappa).all()


def test_known_support_error_is_bounded_by_kappa_times_rounding():
    embed = torch.tensor(table(100, 32), dtype=torch.float32)
    mixtures = weight_recovery.planted_mixtures(100, (2, 8, 24), repeats=3)
    rows = weight_recovery.recovery_rows(embed, mixtures, extra=["random"])
    rows = rows[rows.method == "known"]
    eps = rows.dtype.map({"float32": 2.0**-24, "bfloat16": 2.0**-8})
    assert (rows.max_error <= rows.kappa * eps).all()
    low = rows.groupby("dtype").max_error.mean()
    assert low.float32 < 1e-5 < low.bfloat16


def test_an_unknown_shape_is_refused():
    with pytest.raises(ValueError, match="'round'.*'flat' or 'peaked'"):
        weight_recovery.planted_weights(3, "round")
