"""Norms of mixtures: drift, ranges, clipping."""

from dataclasses import replace

import pandas as pd
import pytest
import torch

from experiments.generation import norms
from harness.claims import measured
from harness.judge import judge
from helpers import MixtureConfig, generate_concepts

PROMPTS = ["The capital of France is", "2 plus 2 equals", "The baker feeds the"]


def test_the_drift_is_last_minus_first_and_unsure_is_the_upper_third_of_entropy():
    own = pd.DataFrame({
        "prompt": [0, 0, 0, 1, 1, 1], "kind": norms.OWN,
        "entropy": [1.0, 5.0, 3.0, 6.0, 2.0, 4.0],  # the upper third: 5 and 6
        "ratio": [0.9, 0.5, 0.8, 0.4, 0.6, 0.7],
        "distance": [0.1, 0.5, 0.3, 0.7, 0.2, 0.4], "in_use": [0.2, 0.4, 0, 0.8, 0, 0],
        "spread": [1.0, 0.4, 0.9, 0.2, 1.0, 1.0],
        "centred": [1.0, 0.7, 0.9, 0.5, 1.0, 1.0],
        "cosine": [1.0, 0.6, 1.0, 0.8, 1.0, 1.0],
    })  # fmt: skip
    other = own.assign(kind=norms.RANDOM, ratio=[0.1, 0.2, 0.3, 0.6, 0.5, 0.4])
    other = other.assign(distance=[0, 0.8, 0, 1.0, 0, 0])
    found = norms.drift_parts(pd.concat([own, other], ignore_index=True))
    assert {k: e.value for k, e in found.items()} == pytest.approx({
        "ratio_high": 0.45, "spread_high": 0.3, "centred_high": 0.6,
        "cosine_high": 0.7, "ratio_random": 0.4,
        "distance_high": 0.6, "distance_random": 0.9, "distance_rho": 1,
        "distance_drift": -0.05,  # +0.2 in the one prompt, -0.3 in the other
        "in_use_high": 0.6, "in_use_random": 0.6,
        "ratio_drift": 0.1,  # -0.1 in the one prompt, +0.3 in the other
        "ratio_rho": 1 - 6 * 64 / (6 * 35),  # squared rank differences sum to 64
    })  # fmt: skip
    drift = found["ratio_drift"]
    assert (drift.low, drift.high) == pytest.approx((-0.1, 0.3)) and drift.n == 2


def test_the_parts_of_g3_are_means_by_range_and_violations_are_counted():
    rows = pd.DataFrame(
        [("a", "all rows", 0, 0.5, 0.2, 0, 0.2), ("b", "all rows", 0, 1, 0.4, 0, 0.6),
         ("a", "1-99 %", 0.25, 0.5, -0.5, 0.1, 0), ("a", "1-99 %", 0.5, 0, 0.1, 0.3, 1)
        ],
        columns=["template", "range", *norms.CLIP_PARTS],
    )  # fmt: skip
    steps = pd.DataFrame({
        "kind": [norms.OWN] * 3 + [norms.RANDOM] * 2,
        "norm": [1 + 1e-12, 2.0, 3.1, 9.0, 9.0], "hull": [1.0, 2.5, 3.0, 1.0, 1.0],
    })  # fmt: skip
    found = norms.range_parts(rows, steps)
    names = "hull_violations upper_rate lower_rate delta_nll delta_upper delta_lower"
    for name, values in {
        "all rows": (1, 0, 0.75, 0.3, 0, 0.4),
        "1-99 %": (1, 0.375, 0.25, -0.2, 0.2, 0.5),
    }.items():
        own = {part: e.value for part, e in found[name].items()}
        assert own == pytest.approx(dict(zip(names.split(), values)))
        assert found[name]["hull_violations"].n == 3
    apart, together = (found[name]["delta_nll"] for name in ("all rows", "1-99 %"))
    assert apart.low < apart.high and together.low == together.high and together.n == 2


def test_clipping_by_a_range_that_holds_everything_changes_nothing(mini):
    trace = generate_concepts(
        mini, PROMPTS, 4, MixtureConfig.appendix(), stop_at_eos=False
    )
    greedy = [ids[:n] for ids, n in zip(trace.indices[..., 0].tolist(), (4, 4, 2))]
    rows = norms.clip_rows(mini, PROMPTS, trace, greedy)
    box = rows[rows.range == "per coordinate"]
    assert not box[[*norms.CLIP_PARTS]].to_numpy().any()


@pytest.mark.parametrize("name", norms.RANGES)
def test_what_lies_outside_is_seen_and_brought_back(mini, name):
    low, high = norms.norm_limits(mini, name)
    x = torch.stack([mini.embed[0] * 100, mini.embed[0] * 1e-3, mini.embed.mean(0)])
    above, below = norms.outside_range(x, name, low, high)
    assert above[0] and (below[1] or name == "per coordinate")
    inside = norms.clip_to_range(x, name, low, high)
    assert not torch.stack(norms.outside_range(inside, name, low, high)).any()


def test_points_are_the_first_prompts_steps_by_model_and_kind(mini):
    trace = generate_concepts(mini, PROMPTS, 4, stop_at_eos=False)
    points = norms.norm_points({"b": norms.step_rows(mini, trace)}, n_prompts=2)
    assert set(points.prompt) == {0, 1} and len(points) == 2 * 2 * 4
    assert list(points.kind) == sorted(points.kind)


def test_a_row_is_at_distance_zero_and_a_mixture_is_measured_to_the_nearest():
    embed = torch.tensor([[0.0, 0], [4, 0], [0, 3], [0, 3], [9, 9]])
    x = torch.cat([embed, torch.tensor([[4.0, 1], [1, 0]])])
    expected = [0, 0, 0, 0, 0, 1, 1]
    distance, cosine = norms.nearest_rows(x, embed)
    assert distance.tolist() == expected
    assert cosine[1:].tolist() == pytest.approx([1, 1, 1, 1, 4 / 17**0.5, 1])
    # nearest others: the third row, the first, a twin, a twin, (0, 3)
    own = norms.nearest_rows(embed, embed, torch.arange(5))[0]
    assert own.tolist() == pytest.approx([3, 4, 0, 0, 106**0.5])
    assert norms.row_spacing(embed) == 3
    assert norms.row_spacing(embed, torch.tensor([1, 4])) == 4  # torch's lower median
    assert norms.row_spacing(embed, most=2) in (0, 3, 4)


def verdict(lm, trace):
    parts = norms.drift_parts(norms.step_rows(lm, trace))
    rows = [measured("G4", part, e, cell="m") for part, e in parts.items()]
    return judge("G4", rows, "mini").verdict, parts


def test_mixtures_that_are_rows_do_not_drift_and_those_that_leave_do(mini):
    prompts = [f"{a} plus {b} equals" for a in range(1, 11) for b in range(5)]
    how = MixtureConfig.appendix(top_k=1)
    rows = generate_concepts(mini, prompts, 6, how, stop_at_eos=False)
    found, parts = verdict(mini, rows)
    # a random row is a row as well: then nothing can be judged
    assert found == "not tested" and parts["distance_random"].value == 0
    assert parts["distance_high"].high == parts["distance_rho"].value == 0
    # planted: sure at first, then ever less, over rows far apart
    steps = torch.arange(6)
    top = (1 - 0.16 * steps).expand(50, 6)
    weights = torch.stack([top, *[(1 - top) / 9] * 9], dim=-1)
    draw = torch.Generator().manual_seed(0)
    ids = torch.rand(50, 6, mini.embed.shape[0], generator=draw).argsort(-1)[..., :10]
    entropy = torch.special.entr(weights).sum(-1)
    planted = replace(rows, probs=weights, indices=ids, entropy=entropy)
    found, parts = verdict(mini, planted)
    assert found == "reproduced" and parts["distance_drift"].low > 0.5
