"""Readers whose answer is known, measured and judged by the rules of claims.csv.

The world has twenty-four tokens, each with a sharp distribution of what follows it, and
the identity as embedding: a vector is its own weights.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from experiments.information_analysis import bits, contexts, interpolation, noise
from experiments.metrics import entropy, with_entropy
from harness import claims, judge, wording
from tests.experiments.information_analysis.test_bits import Cache

V, N = 24, 60
GENERATOR = torch.Generator().manual_seed(3)
TABLE = (14 * torch.rand(V, V, generator=GENERATOR).double()).softmax(-1)
EMBED = torch.eye(V)


def planted(read):
    """A language model whose next distribution is read(vectors (N,V) >= 0)."""

    def model(inputs_embeds, past_key_values=None, **_):
        logits = read(inputs_embeds[:, -1].double().clamp_min(0)).log()
        return SimpleNamespace(logits=logits[:, None], past_key_values=Cache())

    return SimpleNamespace(model=model, embed=EMBED, used=V)


def whole(x):
    return (x / x.sum(-1, keepdim=True).clamp_min(1e-9)) @ TABLE


def top_only(x):
    return TABLE[x.argmax(-1)]


def flattened_top(x):
    """As unsure as the mixture makes it, of nothing but what follows the top token."""
    return with_entropy(top_only(x), entropy(whole(x)))


def deaf(x):
    return TABLE.mean(0).expand(len(x), V)


def brittle(x):
    """Read the whole of a mixture, but nothing of one that lies off it a little."""
    token, off = x.amax(-1) > 0.7, x.sum(-1) > 1.05
    lost = torch.where(off[:, None], deaf(x), whole(x))
    return torch.where(token[:, None], top_only(x), lost)


def planted_contexts():
    """Sixty contexts of six templates: three tokens, the top one with .4 to .6."""
    rng = np.random.default_rng(0)
    found = []
    for n in range(N):
        top = rng.uniform(0.4, 0.6)
        second = (1 - top) * rng.uniform(0.5, 0.8)
        probs = torch.tensor([top, second, 1 - top - second]).float()
        indices = torch.tensor(rng.choice(V, 3, replace=False))
        concept, prefix = probs @ EMBED[indices], EMBED[:2]
        rest = (concept, 1.0, f"template {n % 6}")
        found.append(contexts.Context(n, 0, prefix, probs, indices, *rest))
    return found


CONTEXTS = planted_contexts()


def verdict(claim, estimates):
    rows = [claims.measured(claim, part, e, cell="m") for part, e in estimates.items()]
    judged = judge.judge(claim, rows, "mini")
    return judged.verdict, wording.reason_text(judged)


def n2(read, related):
    rows = interpolation.interpolation_rows(planted(read), CONTEXTS, related)
    if not len(rows):
        return "not tested", "no pair whose continuations differ"
    pairs = interpolation.interpolation_pairs(rows)
    return verdict("N2", interpolation.interpolation_estimates(pairs))


def n3(read):
    rows = bits.bits_rows(planted(read), CONTEXTS, [True] * N)
    rows["usable"] = rows.usable.clip(lower=1e-12)  # of the deaf reader: a zero
    return verdict("N3", bits.bits_estimates(rows))


def n5(read):
    doses = [0, 0.25, 0.5, 1, 2, 3]
    rows = noise.noise_rows(planted(read), CONTEXTS, doses, draws=4)
    return verdict("N5", noise.noise_estimates(rows))


@pytest.mark.parametrize("related", [True, False])
@pytest.mark.parametrize(
    "read, deserved, why",
    [
        (whole, "reproduced", "linear gap"),
        (top_only, "not reproduced", "step gain"),  # a step at one half
        (flattened_top, "not reproduced", "step gain"),
        (deaf, "not tested", "differ"),
    ],
)
def test_a_superposition_is_found_in_a_linear_reader_only(read, related, deserved, why):
    found, reason = n2(read, related)
    assert found == deserved and why in reason, reason


def test_what_follows_neither_token_is_no_blend():
    """Between its rows it hears nothing: no share of the two tokens explains that."""

    def between(x):
        return torch.where((x.amax(-1) > 0.99)[:, None], top_only(x), deaf(x))

    found, reason = n2(between, True)
    assert found == "not tested" and "no blend" in reason


@pytest.mark.parametrize(
    "read, deserved, why",
    [
        (whole, "reproduced", "used share 1 "),
        (top_only, "partly", "used over flat"),  # the vector holds the bits, unread
        (flattened_top, "partly", "used over flat 0.00"),  # as good without runners-up
        (deaf, "not tested", "no headroom"),
    ],
)
def test_uncertainty_is_kept_by_a_reader_of_the_runners_up_only(read, deserved, why):
    found, reason = n3(read)
    assert found == deserved and why in reason, reason


@pytest.mark.parametrize(
    "read, deserved, why",
    [
        (brittle, "reproduced", "flip difference"),
        # which of two near tops is read flips early
        (top_only, "reproduced", "flip difference"),
        # near ties flip early for a linear reader, too: flips alone prove nothing
        (whole, "partly", "fragility -0.1"),
        (deaf, "not tested", "dose-response"),
    ],
)
def test_a_strange_input_is_found_where_mild_noise_hurts_it_more(read, deserved, why):
    found, reason = n5(read)
    assert found == deserved and why in reason, reason
