"""Noise on mixtures and tokens, before readers whose answer is known."""

import pandas as pd
import pytest
import torch

from experiments.information_analysis import noise
from tests.experiments.information_analysis.test_bits import (
    context,
    deaf,
    planted,
    top_only,
    whole,
)


def test_a_moved_vector_goes_as_far_as_asked_and_keeps_its_norm_if_asked():
    generator, base = torch.Generator().manual_seed(0), torch.ones(50)
    assert float((noise.perturb(base, 2.0, generator) - base).norm()) == pytest.approx(
        2
    )
    there = noise.perturb(base, 2.0, generator, restored=True)
    assert float(there.norm()) == pytest.approx(float(base.norm()))
    assert not torch.equal(there, base)


def test_noise_costs_a_deaf_reader_nothing_and_a_top_reader_its_token():
    rows = noise.noise_rows(planted(deaf), [context([0.6, 0.4])], [0, 1.0, 30.0])
    assert rows.nll.max() - rows.nll.min() < 1e-6 and not rows.flip.any()
    found = [context([0.6, 0.4])]
    rows = noise.noise_rows(planted(top_only), found, [0.01, 30], draws=8)
    rows = rows[rows.kind == "token"]
    assert not rows[rows.sigma == 0.01].flip.any() and rows[rows.sigma == 30].flip.any()


def test_the_parts_of_n5_come_from_the_right_rows():
    rows = noise.noise_rows(planted(whole), [context([0.6, 0.4])] * 3, [0, 0.5, 3])
    parts = noise.noise_estimates(rows)
    doses = ["nll@0", "nll@0.5", "nll@3"]
    assert list(parts) == [*doses, "fragility", "flip_difference"]
    assert parts["nll@0"].value <= parts["nll@3"].value
    curves = noise.noise_curves(rows.assign(model="m"))
    assert (curves[curves.sigma == 0].value == 0).all() and len(set(curves.panel)) == 2


def test_the_parts_of_n5_by_hand():
    rows = pd.DataFrame(
        [
            ("mixture", 0.0, 1.0, 0.0),
            ("mixture", 0.0, 2.0, 0.0),
            ("mixture", 0.5, 3.0, 1.0),
            ("mixture", 0.5, 5.0, 0.5),
            ("token", 0.0, 0.5, 0.0),
            ("token", 0.0, 0.5, 0.0),
            ("token", 0.5, 1.0, 0.5),
            ("token", 0.5, 1.5, 0.0),
            ("matched", 0.7, 9.0, 1.0),
            ("matched", 0.7, 9.0, 1.0),
        ],
        columns=["kind", "sigma", "nll", "flip"],
    ).assign(template=["a", "b"] * 5)
    same = rows.assign(restored=True, nll=99.0, flip=1.0)  # no part of the claim
    parts = noise.noise_estimates(pd.concat([rows.assign(restored=False), same]))
    assert {name: part.value for name, part in parts.items()} == {
        "nll@0": 1.5,
        "nll@0.5": 4.0,
        "fragility": 1.75,  # 2 - 0.5 and 3 - 1
        "flip_difference": 0.5,
    }
    assert all(part.n == 2 for part in parts.values())
