"""mixture.py and weight_rules.py: what holds for all logits and settings."""

import math
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import floors
from experiments.metrics import nearest_rows
from harness.files import ROOT
from helpers import MixtureConfig, mix, mixture, mixture_weights, weight_rules
from helpers.mixture import (
    apply_norm,
    clip_norm,
    logits_entropy,
    norm_bounds,
    sharpened,
)

settings.register_profile("quick", max_examples=60, deadline=None)
settings.load_profile("quick")

TEMPERATURES = st.one_of(st.floats(1e-12, 1e12), st.sampled_from([1e-300, 1e300, 1.0]))


@st.composite
def cases(draw):
    """Logits (B,V) with ties, huge values and -inf, and settings for them."""
    rows, size = draw(st.integers(1, 3)), draw(st.integers(1, 40))
    noise = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    logits = torch.randn(rows, size, generator=noise) * draw(st.floats(0, 30))
    places = st.tuples(st.integers(0, rows - 1), st.integers(0, size - 1))
    odd = st.sampled_from([0.0, 1.0, -math.inf, 3e38, -3e38])
    for (row, column), value in draw(st.dictionaries(places, odd, max_size=12)).items():
        logits[row, column] = value
    dead = (logits == -math.inf).all(-1)
    logits[dead, draw(st.integers(0, size - 1))] = 1.0
    config = MixtureConfig(
        top_k=draw(st.integers(1, size + 5)),
        temperature=draw(TEMPERATURES),
        alpha=draw(TEMPERATURES),
    )
    return logits, config


@given(cases())
def test_weights_are_a_sorted_distribution(case):
    logits, config = case
    probs, indices, nats = mixture_weights(logits, config)
    k = min(config.top_k, logits.shape[1])
    assert probs.shape == indices.shape == (len(logits), k)
    assert nats.shape == (len(logits),)
    assert torch.allclose(probs.sum(-1), torch.ones(len(logits)), atol=1e-6)
    assert (probs >= 0).all() and (probs.diff(dim=-1) <= 0).all()
    assert all(len(set(row)) == k for row in indices.tolist())
    chosen = logits.gather(-1, indices)
    assert torch.equal(chosen[:, 0], logits.amax(-1))
    assert (probs[chosen == -math.inf] == 0).all()
    left = logits.scatter(-1, indices, -math.inf).amax(-1)
    assert (left <= chosen.amin(-1)).all()  # nothing left out was larger


@given(cases())
def test_entropy_is_that_of_the_full_softmax(case):
    logits, _ = case
    found = logits_entropy(logits)
    exact = torch.distributions.Categorical(logits=logits.double()).probs
    exact = -(exact * exact.clamp_min(1e-300).log()).sum(-1)
    assert torch.allclose(found.double(), exact, atol=1e-4)
    assert (found >= -1e-6).all()
    assert (found <= math.log(logits.shape[1]) + 1e-5).all()


@given(cases(), TEMPERATURES)
def test_entropy_may_be_taken_at_a_temperature_of_its_own(case, temperature):
    logits, config = case
    other = replace(config, entropy_temperature=temperature)
    weights, plain = mixture_weights(logits, other), mixture_weights(logits, config)
    assert torch.equal(weights.probs, plain.probs)  # the mixture is the same
    assert torch.equal(weights.indices, plain.indices)
    assert torch.equal(plain.entropy, logits_entropy(logits))
    assert (weights.entropy >= -1e-6).all()
    assert (weights.entropy <= math.log(logits.shape[1]) + 1e-5).all()
    if 0.05 < temperature < 20:
        exact = logits.double() / temperature
        exact = exact - exact.amax(-1, keepdim=True)
        assert torch.allclose(
            weights.entropy.double(), logits_entropy(exact), atol=1e-4
        )


@given(cases(), st.integers(0, 2**31))
def test_mixtures_stay_inside_the_hull(case, seed):
    logits, config = case
    embed = torch.randn(
        logits.shape[1], 5, generator=torch.Generator().manual_seed(seed)
    )
    probs, indices, _ = mixture_weights(logits, config)
    concept, rows = mix(probs, indices, embed), embed[indices]
    slack = 1e-5 * (1 + rows.abs().amax())
    assert (concept <= rows.amax(1) + slack).all()
    assert (concept >= rows.amin(1) - slack).all()
    bound = (probs * rows.norm(dim=-1)).sum(-1)
    assert (concept.norm(dim=-1) <= bound * (1 + 1e-5) + 1e-7).all()  # G3


@given(
    st.lists(st.floats(-20, 20), min_size=2, max_size=30, unique=True),
    st.integers(1, 30),
    st.floats(0.2, 3),
    st.floats(0.2, 3),
)
def test_alpha_and_temperature_compose(values, k, temperature, alpha):
    """G2: softmax(z/T) -> top-k -> ^alpha is softmax(alpha z/T) -> top-k."""
    logits = torch.tensor([values], dtype=torch.float64)
    both = sharpened(logits, MixtureConfig(k, temperature, alpha))
    one = sharpened(logits, MixtureConfig(k, temperature / alpha, 1.0))
    assert both[0].dtype == torch.float64
    assert torch.equal(both[1], one[1])
    assert torch.allclose(both[0], one[0], rtol=0, atol=1e-12)


@given(st.lists(st.floats(-9, 9, width=32), min_size=60, max_size=60, unique=True))
def test_default_weights_are_the_appendix_snippet(values):
    """The write-up's code, word for word, for one row (its Appendix)."""
    logits, embeddings = torch.tensor(values), torch.nn.Embedding(60, 8)
    probs = F.softmax(logits / 0.8, dim=-1)
    top_k_probs, top_k_indices = torch.topk(probs, k=50)
    top_k_probs = top_k_probs**1.5  # Sharpening
    top_k_probs = top_k_probs / top_k_probs.sum()
    concept_embedding = sum(
        p * embeddings.weight[idx] for p, idx in zip(top_k_probs, top_k_indices)
    )
    weights = mixture_weights(logits)
    assert torch.allclose(weights.probs, top_k_probs, atol=1e-6)
    ours = mix(weights.probs, weights.indices, embeddings.weight.detach())
    assert torch.allclose(ours, concept_embedding, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_mix_of_one_token_is_its_row_bit_for_bit(dtype):
    embed = torch.randn(20, 16).to(dtype)
    probs = torch.eye(3, 7)[:1].expand(4, -1)
    indices = torch.randint(0, 20, (4, 7))
    assert torch.equal(mix(probs, indices, embed), embed[indices[:, 0]])
    assert mix(probs[0], indices[0], embed).shape == (16,)


def test_mix_is_the_dense_product():
    embed, logits = torch.randn(30, 12), torch.randn(4, 30)
    weights = mixture_weights(logits, MixtureConfig.raw(top_k=99))
    assert weights.probs.shape == (4, 30)
    dense = logits.softmax(-1) @ embed
    assert torch.allclose(mix(weights.probs, weights.indices, embed), dense, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ids_of_any_whole_type_name_rows(dtype):
    """As many uint8 ids as the table has rows would be read as a mask by torch."""
    embed, probs = torch.randn(4, 6).to(dtype), torch.tensor([0.4, 0.3, 0.2, 0.1])
    ids = torch.tensor([3, 1, 1, 0])
    for kind in (torch.uint8, torch.int32):
        assert torch.equal(mix(probs, ids.to(kind), embed), mix(probs, ids, embed))


def test_one_row_of_logits_needs_no_batch():
    logits = torch.randn(30)
    alone, batch = mixture_weights(logits), mixture_weights(logits[None])
    assert alone.probs.shape == (30,) and alone.entropy.shape == ()
    assert all(torch.equal(a, b[0]) for a, b in zip(alone, batch))


@given(st.integers(0, 2**31), st.floats(0.01, 10))
def test_the_original_norm_rule_has_no_lower_bound(seed, size):
    """Its whole rule: no longer than 1.5 times the mean row; the direction stays."""
    draw = torch.Generator().manual_seed(seed)
    embed = torch.randn(40, 9, generator=draw)
    x = torch.randn(6, 9, generator=draw) * size
    clipped = clip_norm(x, norm_bounds(embed, "original"))
    most = 1.5 * embed.norm(dim=-1).mean()
    long = x.norm(dim=-1) > most * (1 + 1e-5)
    assert torch.equal(clipped[~long], x[~long])
    assert torch.allclose(clipped[long].norm(dim=-1), most.expand(int(long.sum())))
    assert torch.allclose(F.cosine_similarity(x, clipped), torch.ones(6), atol=1e-5)


@given(st.floats(0.1, 3), st.floats(0.01, 10))
def test_clip_norm_moves_only_what_is_outside(low, size):
    bounds = torch.tensor(low), torch.tensor(low + 1.0)
    x = F.normalize(torch.randn(6, 9), dim=-1) * size
    clipped = clip_norm(x, bounds)
    norms = clipped.norm(dim=-1)
    assert (norms >= low * (1 - 1e-5)).all() and (norms <= (low + 1) * (1 + 1e-5)).all()
    assert torch.allclose(F.cosine_similarity(x, clipped), torch.ones(6), atol=1e-5)
    inside = (x.norm(dim=-1) > low) & (x.norm(dim=-1) < low + 1)
    assert torch.equal(clipped[inside], x[inside])


def test_norm_bounds_and_every_row_lies_within_them():
    embed = torch.randn(500, 8)
    embed[400:] *= 1e-3  # rows that no tokenizer names
    norms = embed.norm(dim=-1)
    low, high = norm_bounds(embed, "all")
    assert (low, high) == (norms.min(), norms.max())
    assert torch.equal(clip_norm(embed, (low, high)), embed)
    assert norm_bounds(embed, "used", 400)[0] == norms[:400].min()
    inner = norm_bounds(embed, "central")
    share = ((norms >= inner[0]) & (norms <= inner[1])).float().mean().item()
    assert 0.975 <= share <= 0.985
    assert norm_bounds(embed, "original") == (0, 1.5 * norms.mean())
    assert norm_bounds(embed, "none") is None
    assert torch.equal(clip_norm(embed, None), embed)
    assert torch.equal(clip_norm(torch.zeros(1, 8), (low, high)), torch.zeros(1, 8))


def test_nearest_finds_a_row_by_every_metric_but_dot_when_norms_differ():
    embed = torch.randn(50, 16)
    ids = torch.arange(50)
    for metric in ("cosine", "l2", "centred"):
        assert torch.equal(nearest_rows(embed, embed, metric), ids)
    embed[7] *= 1000
    assert not torch.equal(nearest_rows(embed, embed, "dot"), ids)
    with pytest.raises(ValueError, match="metric"):
        nearest_rows(embed, embed, "manhattan")


RULES = {
    "sampled": weight_rules.sampled,
    "gumbel": weight_rules.gumbel,
    "shuffled": floors.shuffled,
    "random_weights": floors.random_weights,
    "random_tokens": floors.random_tokens,
}


@pytest.mark.parametrize("name", RULES)
def test_rules_that_draw_give_sorted_weights_and_follow_their_seed(name):
    logits, config = torch.randn(5, 80) * 3, MixtureConfig(top_k=20)
    first = mixture_weights(logits, config, RULES[name](seed=3))
    again = mixture_weights(logits, config, RULES[name](seed=3))
    other = mixture_weights(logits, config, RULES[name](seed=4))
    assert torch.allclose(first.probs.sum(-1), torch.ones(5), atol=1e-6)
    assert (first.probs.diff(dim=-1) <= 0).all()
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert any(not torch.equal(a, b) for a, b in zip(first, other))
    kept = sharpened(logits, config)
    same = [set(a) == set(b) for a, b in zip(first.indices.tolist(), kept[1].tolist())]
    assert all(same) == (name != "random_tokens")
    assert all(len(set(row)) == 20 for row in first.indices.tolist())
    if name in ("shuffled", "random_tokens"):
        assert torch.equal(first.probs, kept[0])


@pytest.mark.parametrize("name", ["sampled", "gumbel"])
def test_draws_follow_the_weights(name):
    logits = torch.tensor([[2.0, 1.0, 0.0, -1.0]]).expand(20000, -1)
    weights = mixture_weights(logits, MixtureConfig.raw(), RULES[name](seed=0))
    seen = weights.indices[:, 0].bincount(minlength=4) / 20000
    assert torch.allclose(seen, logits[0].softmax(-1), atol=0.015)


def test_one_hot_keeps_the_top_token_only():
    probs, indices, _ = mixture_weights(
        torch.randn(3, 9), weight_rule=weight_rules.one_hot
    )
    assert torch.equal(probs, torch.eye(3, 9)[:1].expand(3, -1))
    with pytest.raises(ValueError, match="tau"):
        weight_rules.gumbel(tau=0)


def test_presets():
    methods, appendix = MixtureConfig(), MixtureConfig.appendix()
    assert (methods.top_k, methods.temperature, methods.alpha) == (50, 0.8, 1.5)
    assert (appendix.top_k, appendix.temperature, appendix.alpha) == (50, 0.8, 1.5)
    assert methods.norm == "all" and appendix.norm == "none"
    assert methods.mode == "continuous" and methods.stop_entropy is None
    assert MixtureConfig.raw(top_k=9).top_k == 9
    coded = MixtureConfig.original()
    assert (coded.top_k, coded.temperature, coded.alpha) == (50, 0.8, 1.5)
    assert (coded.norm, coded.stop_entropy, coded.stop_run) == ("original", 1.0, 2)
    assert coded.entropy_temperature == 0.8 and methods.entropy_temperature == 1
    assert MixtureConfig.original(stop_entropy=None).stop_entropy is None


@pytest.mark.parametrize(
    "name, value",
    [
        ("top_k", 0),
        ("top_k", -1),
        ("top_k", 2.5),
        ("top_k", True),
        ("top_k", "5"),
        ("temperature", 0),
        ("temperature", -1.0),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("temperature", "hot"),
        ("alpha", 0),
        ("alpha", -2),
        ("alpha", math.nan),
        ("norm", "clip"),
        ("mode", "hybrid"),
        ("gate_entropy", -0.1),
        ("gate_entropy", math.nan),
        ("stop_entropy", -1),
        ("stop_entropy", "low"),
        ("entropy_temperature", 0),
        ("entropy_temperature", math.nan),
        ("stop_run", 0),
        ("stop_run", 1.5),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(name, value):
    with pytest.raises(ValueError) as refused:
        MixtureConfig(**{name: value})
    message = str(refused.value)
    assert name in message and repr(value) in message and "\n" not in message


@pytest.mark.parametrize(
    "logits",
    [
        torch.tensor([[0.0, math.nan]]),
        torch.tensor([[0.0, math.inf]]),
        torch.tensor([[0.0, 1.0], [-math.inf, -math.inf]]),
        torch.zeros(1, 2, 3),
        torch.zeros(1, 0),
        torch.tensor(1.0),
    ],
)
def test_logits_without_a_distribution_are_refused(logits):
    with pytest.raises(ValueError, match="^logits[^\n]*$"):
        mixture_weights(logits)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="one shape"):
        mix(torch.ones(2, 3), torch.zeros(2, 4, dtype=int), torch.ones(5, 6))


def test_settings_are_checked_before_torch_is_imported():
    code = """
import sys, helpers
try:
    helpers.MixtureConfig(top_k=0)
except ValueError as error:
    print(error)
for bad in ({"name": "nope"}, {"name": "mini-gpt2", "dtype": "int8"}):
    try:
        helpers.load(**bad)
    except (ValueError, FileNotFoundError) as error:
        print(error)
assert "torch" not in sys.modules and "transformers" not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 3


def test_public_names_all_resolve():
    import helpers

    assert sorted(helpers.__all__) == sorted(sum(helpers._MODULES.values(), ()))
    assert all(getattr(helpers, name) is not None for name in helpers.__all__)
    assert helpers.mixture is mixture
    with pytest.raises(AttributeError, match="no attribute"):
        _ = helpers.nothing


def scaled(embed, probs, norm):
    """A mixture of the first rows after a norm rule, over the mean row's norm."""
    indices = torch.arange(len(probs))
    bounds, concept = norm_bounds(embed, norm), mix(probs, indices, embed)
    out = apply_norm(concept, probs, indices, bounds, norm)
    assert torch.allclose(F.cosine_similarity(out, concept, dim=0), torch.ones(()))
    return (out.norm() / embed.norm(dim=-1).mean()).item()


def test_restored_norms_are_the_weighted_mean_of_what_is_mixed():
    """Rows (3,4) and (0,10) by half: norms 5 and 10, so 7.5."""
    embed, half = torch.tensor([[3.0, 4], [0, 10]]), torch.tensor([0.5, 0.5])
    assert scaled(embed, half, "restore") * 7.5 == pytest.approx(7.5)
    one = torch.tensor([1.0, 0.0])
    for norm in ("restore", "over_l2"):  # a token alone stays as it is
        assert scaled(embed, one, norm) * 7.5 == pytest.approx(5)


def test_division_by_the_weights_norm_overshoots_where_rows_share_a_mean():
    """HRPO's formula is right for orthogonal rows: 16 equal weights, ||p||_2 = 1/4."""
    even = torch.full((16,), 1 / 16)
    centred = torch.eye(16)
    assert scaled(centred, even, "over_l2") == pytest.approx(1)
    assert scaled(centred + 10, even, "over_l2") == pytest.approx(4, rel=0.01)
    for embed in (centred, centred + 10):
        assert scaled(embed, even, "restore") == pytest.approx(1, rel=0.01)
