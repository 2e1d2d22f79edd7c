"""weight_rules.py: each rule against numbers worked out by hand from its source."""

import math

import pytest
import torch

from helpers import MixtureConfig, mixture_weights, weight_rules
from helpers.mixture import sharpened
from helpers.weight_rules import (
    cipher,
    dirichlet,
    gumbel,
    mean_of_draws,
    mixture_of_inputs,
    one_hot,
    sampled,
    soft_grpo,
    soft_thinking,
)

P = (0.5, 0.3, 0.15, 0.05)  # of tokens 2, 0, 3, 1
LOGITS = torch.tensor([[0.3, 0.05, 0.5, 0.15]]).log()
RAW = MixtureConfig.raw()
DRAWING = (sampled, gumbel, soft_grpo, dirichlet, mixture_of_inputs, mean_of_draws)
RULES = {rule.__name__: rule() for rule in (cipher, soft_thinking, *DRAWING)}


def weights(rule, config=RAW, logits=LOGITS):
    """Its weights of one row, by token."""
    probs, indices, _ = mixture_weights(logits, config, rule)
    return torch.zeros(logits.shape[-1]).scatter_add(0, indices[0], probs[0]).tolist()


def drawing(monkeypatch, *numbers):
    """Make the next uniform numbers that rules draw these."""
    left = list(numbers)

    def rand(shape, generator):
        assert generator.device.type == "cpu"
        count = math.prod(shape)
        taken = [left.pop(0) for _ in range(count)]
        return torch.tensor(taken).view(shape)

    monkeypatch.setattr(torch, "rand", rand)


def near(*expected):
    return pytest.approx(expected, abs=1e-5)


def test_cipher_mixes_all_tokens_at_its_temperature():
    """softmax(z/2) of p is sqrt(p), renormalised: .7071 .5477 .3873 .2236 of 1.8657."""
    config = MixtureConfig.raw(top_k=1, temperature=2.0)
    assert weights(cipher(), config) == near(0.29357, 0.11985, 0.37900, 0.20758)


def test_soft_thinking_filters_in_the_order_of_its_code():
    """top-p .75 keeps .5 and .3: 5/8, 3/8. min-p 1/2 of .5: .5 and .3; of 5/8: both."""
    assert weights(soft_thinking(top_p=0.75)) == near(0.375, 0, 0.625, 0)
    # .15 is 3/10 of the largest, .05 a tenth: min-p .2 leaves .5, .3, .15 of .95
    assert weights(soft_thinking(1.0, 0.2)) == near(6 / 19, 0, 10 / 19, 3 / 19)
    # top-k first: of p's top 3, .5/.95 = .526 and .3/.95 reach .8 together
    three = MixtureConfig.raw(top_k=3)
    assert weights(soft_thinking(top_p=0.8), three) == near(0.375, 0, 0.625, 0)
    assert weights(soft_thinking(top_p=0.8)) == near(0.375, 0, 0.625, 0)
    assert weights(soft_thinking(top_p=0.9), three) == near(6 / 19, 0, 10 / 19, 3 / 19)
    assert weights(soft_thinking(1.0, max_tokens=2)) == near(0.375, 0, 0.625, 0)
    assert weights(soft_thinking(1.0)) == pytest.approx(weights(sharpened))


def test_soft_thinking_always_keeps_the_top_token():
    assert weights(soft_thinking(top_p=0.1, min_p=1.0)) == near(0, 0, 1, 0)


def test_gumbel_is_a_softmax_of_log_p_and_noise(monkeypatch):
    """u = 1/e has noise 0, u = e^-1/2 noise log 2: with tau 1, twice the weight."""
    drawing(monkeypatch, *[math.exp(-1)] * 3, math.exp(-0.5))
    assert weights(gumbel(tau=1.0)) == near(0.3 / 1.05, 0.1 / 1.05, 0.5 / 1.05, 1 / 7)
    drawing(monkeypatch, *[math.exp(-1)] * 4)  # tau 1/2 squares: .25 .09 .0225 .0025
    squares = 0.09 / 0.365, 0.0025 / 0.365, 0.25 / 0.365, 0.0225 / 0.365
    assert weights(gumbel(tau=0.5)) == near(*squares)


def test_soft_grpo_clamps_its_noise_and_weighs_every_kept_token(monkeypatch):
    """Noise of +13.8 becomes 3, of -2.6 becomes -1.5; scale 2 doubles both."""
    u = 1 - 1e-6, 1e-6, math.exp(-1), math.exp(-1)
    drawing(monkeypatch, *u)
    up, down = 0.5 * math.exp(6), 0.3 * math.exp(-3)
    total = up + down + 0.2
    expected = near(down / total, 0.05 / total, up / total, 0.15 / total)
    assert weights(soft_grpo(tau=1.0, scale=2.0)) == expected
    drawing(monkeypatch, *[math.exp(-1)] * 4)
    filtered = weights(soft_grpo(tau=1.0, base=soft_thinking(0.1)))
    assert filtered == pytest.approx([1e-6, 1e-6, 1, 1e-6], rel=1e-3)


def test_dirichlet_draws_have_its_mean_and_variance():
    """Of Dir(c p): mean p, variance p (1 - p) / (c + 1)."""
    many = LOGITS.expand(20000, -1)
    for c in (0.5, 4.0, 50.0):
        probs, indices, _ = mixture_weights(many, RAW, dirichlet(0, c))
        w = torch.zeros(20000, 4).scatter(1, indices, probs)
        p = LOGITS[0].exp()
        assert torch.allclose(w.mean(0), p, atol=0.01)
        assert torch.allclose(w.var(0), p * (1 - p) / (c + 1), rtol=0.08)


def test_dirichlet_survives_weights_that_underflow():
    """Gamma draws of such shapes are all 0 in float32: 0/0 without logarithms."""
    w = weights(dirichlet(0, 1e-6))
    assert sorted(w) == near(0, 0, 0, 1)


def test_mixture_of_inputs_is_the_posterior_mean(monkeypatch):
    """p = (.75, .25), h = .81128 bits; y the second: ((h .75), (h .25 + 2 - h)) / 2."""
    logits = torch.tensor([[0.75, 0.25]]).log()
    h = 0.8112781
    drawing(monkeypatch, 0.9)
    found = weights(mixture_of_inputs(beta=1.0), logits=logits)
    assert found == near(h * 0.75 / 2, (h * 0.25 + 2 - h) / 2)
    drawing(monkeypatch, 0.1)  # y the first, beta 0: h p + (1 - h) y
    found = weights(mixture_of_inputs(beta=0.0), logits=logits)
    assert found == near(h * 0.75 + 1 - h, h * 0.25)


def test_no_weight_is_lost_when_the_sampled_token_is_outside_the_kept_ones(monkeypatch):
    """Its code drops beta h / (beta + 1) then. Kept: tokens 2 and 0; y is token 1.

    y takes token 0's place: p = (.5, .05) / .55, h = .43950 bits.
    """
    drawing(monkeypatch, 0.32)  # tokens 0, 1, 2, 3 end at .3, .35, .85, 1
    two = MixtureConfig.raw(top_k=2)
    found = weights(mixture_of_inputs(beta=1.0), two)
    h = 0.4394970
    assert sum(found) == pytest.approx(1)
    assert found == near(0, (h / 11 + 2 - h) / 2, h * 10 / 11 / 2, 0)


def test_mean_of_draws_counts_and_multiplex_weighs(monkeypatch):
    """Sums .5 .8 .95 1: draws at .1 .2 .6 .9 are tokens 2 2 0 3."""
    drawing(monkeypatch, 0.1, 0.2, 0.6, 0.9)
    assert weights(mean_of_draws(k=4)) == near(0.25, 0, 0.5, 0.25)
    drawing(monkeypatch, 0.1, 0.2, 0.6, 0.9)  # .5 .5 .3 .15 of 1.45
    by_weight = weights(mean_of_draws(k=4, by_weight=True))
    assert by_weight == near(0.3 / 1.45, 0, 1 / 1.45, 0.15 / 1.45)


@pytest.mark.parametrize("name", RULES)
def test_rules_give_sorted_weights_of_distinct_tokens(name):
    logits = torch.randn(40, 90, generator=torch.Generator().manual_seed(5)) * 3
    probs, indices, _ = mixture_weights(logits, MixtureConfig(top_k=7), RULES[name])
    assert torch.allclose(probs.sum(-1), torch.ones(40), atol=1e-5)
    assert (probs >= 0).all() and (probs.diff(dim=-1) <= 0).all()
    assert all(len(set(row)) == len(row) for row in indices.tolist())


@pytest.mark.parametrize(
    "name, config",
    [(name, {"temperature": 1e-9}) for name in RULES]
    + [(name, {"alpha": 1e9}) for name in RULES if name != "mixture_of_inputs"],
)
def test_every_rule_is_greedy_for_a_sure_model(name, config):
    """soft_grpo leaves each other token up to e^-18; y ignores alpha."""
    logits = torch.randn(40, 90, generator=torch.Generator().manual_seed(6)) * 3
    config = MixtureConfig(**config)
    probs, indices, _ = mixture_weights(logits, config, RULES[name])
    assert torch.equal(indices[:, 0], logits.argmax(-1))
    assert (probs[:, 0] > 1 - 1e-6).all()


@pytest.mark.parametrize(
    "rule, limit",
    [
        (soft_grpo(tau=1.0, scale=0.0), sharpened),
        (dirichlet(concentration=1e7), sharpened),
        (mean_of_draws(k=300_000), sharpened),
        (mixture_of_inputs(seed=4, beta=1e7), mean_of_draws(seed=4, k=1)),
    ],
)
def test_limits_are_the_rules_they_should_be(rule, limit):
    config = MixtureConfig.raw()
    flat = torch.log(torch.tensor([[0.4, 0.3, 0.2, 0.1]]))
    assert weights(rule, config, flat) == pytest.approx(
        weights(limit, config, flat), abs=4e-3
    )


@pytest.mark.parametrize("rule", DRAWING, ids=lambda rule: rule.__name__)
def test_a_seed_gives_the_same_draws_on_every_device(rule):
    """The second draws after a first that was made elsewhere: on the meta device."""
    here, there = rule(seed=3), rule(seed=3)
    logits = torch.randn(5, 80, generator=torch.Generator().manual_seed(1))
    here(logits, RAW)
    there(logits.to("meta"), RAW)
    assert all(torch.equal(a, b) for a, b in zip(here(logits, RAW), there(logits, RAW)))


def test_noise_can_follow_another_rules_filters():
    filtered = soft_thinking(top_p=0.75)
    for rule in (gumbel, dirichlet, sampled, mean_of_draws):
        found = weights(rule(seed=1, base=filtered))
        assert found[1] == found[3] == 0 and sum(found) == pytest.approx(1)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: gumbel(tau=0), "tau must be a finite number above 0, not 0"),
        (lambda: soft_grpo(scale=-1.0), "scale must be a finite number of at least 0"),
        (lambda: dirichlet(concentration=math.inf), "concentration must be a finite"),
        (lambda: mixture_of_inputs(beta=-1), "beta must be a finite number of at lea"),
        (lambda: mean_of_draws(k=0), "k must be a whole number of at least 1, not 0"),
        (lambda: soft_thinking(top_p=1.5), "top_p must be at most 1, not 1.5"),
        (lambda: soft_thinking(min_p=-0.1), "min_p must be a finite number of at leas"),
        (lambda: soft_thinking(max_tokens=0), "max_tokens must be a whole number"),
    ],
)
def test_bad_settings_are_named_when_the_rule_is_made(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_one_hot_needs_no_factory():
    assert weights(one_hot) == near(0, 0, 1, 0)


def test_every_rule_can_be_named():
    """By its function's name, from a seed: the same weights."""
    logits = torch.randn(5, 80, generator=torch.Generator().manual_seed(2))
    made = {"sharpened": sharpened, "one_hot": one_hot}
    made |= {rule.__name__: rule() for rule in (cipher, soft_thinking)}
    made |= {rule.__name__: rule(seed=7) for rule in DRAWING}
    assert set(made) == set(weight_rules.RULES)
    for name, rule in made.items():
        found = weight_rules.named_rule(name, seed=7)(logits, RAW)
        assert all(torch.equal(a, b) for a, b in zip(found, rule(logits, RAW)))
    with pytest.raises(ValueError, match="rule must be one of sharpened, .*not 'best'"):
        weight_rules.named_rule("best")
