"""Bits of mixtures, on cases whose answer is known in closed form."""

import math
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.information_analysis import bits as info
from experiments.information_analysis import contexts
from experiments.information_analysis.bits import mixture_bits

V = 6
TABLE = torch.rand(V, V, generator=torch.Generator().manual_seed(1)).double()
TABLE = (8 * TABLE).softmax(-1)  # P(next | token), rows


class Cache:
    """A cache that holds nothing, as the planted readers need none."""

    def batch_repeat_interleave(self, repeats):
        pass


def planted(read):
    """A language model whose next distribution is read(vector): E is the identity."""

    def model(inputs_embeds, past_key_values=None, **_):
        logits = read(inputs_embeds[:, -1].double().clamp_min(0)).log()
        return SimpleNamespace(logits=logits[:, None], past_key_values=Cache())

    return SimpleNamespace(model=model, embed=torch.eye(V), used=V)


def whole(x):
    return (x / x.sum(-1, keepdim=True).clamp_min(1e-9)) @ TABLE + 1e-12


def top_only(x):
    return TABLE[x.argmax(-1)]


def deaf(x):
    return TABLE.mean(0).expand(len(x), V)


def context(probs, prompt=0):
    probs = torch.tensor(probs)
    indices = torch.arange(len(probs))
    concept = probs @ torch.eye(V)[: len(probs)]
    return contexts.Context(prompt, 0, torch.eye(V)[:2], probs, indices, concept)


def rows_of(rows):
    return torch.tensor(rows).double()


def test_two_members_that_never_agree_leave_one_bit():
    bits = mixture_bits(
        torch.tensor([0.5, 0.5]), rows_of([[1.0, 0], [0, 1]]), rows_of([0.5, 0.5])
    )
    assert bits["distribution"] == pytest.approx(1)
    assert bits["available"] == pytest.approx(1)
    assert bits["js_mixture"] == pytest.approx(0, abs=1e-12)


def test_members_that_agree_leave_nothing():
    bits = mixture_bits(
        torch.tensor([0.7, 0.3]), rows_of([[0.2, 0.8]] * 2), rows_of([0.2, 0.8])
    )
    assert bits["distribution"] == pytest.approx(0.8812908992)
    for name in ("available", "usable", "used"):
        assert bits[name] == pytest.approx(0, abs=1e-12)


def test_available_and_usable_by_hand():
    # w = (1/2, 1/2), P_1 = (1/2, 1/2), P_2 = (1, 0): q = (3/4, 1/4)
    bits = mixture_bits(
        torch.tensor([0.5, 0.5]), rows_of([[0.5, 0.5], [1.0, 0]]), rows_of([0.5, 0.5])
    )
    entropy = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert bits["available"] == pytest.approx(entropy - 0.5)
    assert bits["usable"] == pytest.approx(1 - entropy)
    assert bits["used"] == pytest.approx(0)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 5), st.integers(2, 9))
def test_available_lies_between_nothing_and_the_distribution(seed, k, size):
    generator = torch.Generator().manual_seed(seed)
    weights = torch.rand(k, generator=generator).double().softmax(-1)
    members = (9 * torch.rand(k, size, generator=generator).double()).softmax(-1)
    bits = mixture_bits(weights, members, weights @ members)
    assert -1e-9 <= bits["available"] <= bits["distribution"] + 1e-9
    assert bits["used"] == pytest.approx(bits["usable"], abs=1e-9)  # a perfect reader


def test_readers_are_told_apart_by_what_they_use():
    steps = [context([0.6, 0.3, 0.1], 0), context([0.5, 0.5], 1)]
    share = {}
    for name, reader in {"whole": whole, "top": top_only}.items():
        rows = info.bits_rows(planted(reader), steps, [True, True])
        rows = rows[rows.reader == "mixture"]
        share[name] = rows.used.sum() / rows.usable.sum()
    assert share["whole"] == pytest.approx(1, abs=1e-6)
    assert share["top"] == pytest.approx(0, abs=1e-6)
    rows = info.bits_rows(
        planted(deaf), steps, [True, True]
    )  # nothing to use, and nothing used
    assert rows.usable.abs().max() < 1e-9 and rows.used.abs().max() < 1e-9


def test_the_parts_of_n3_by_hand():
    rows = pd.DataFrame(
        [
            (0, "mixture", 1.0, 4.0, 2.0),
            (0, "flat", 1.0, 4.0, 1.0),
            (0, "replaced", 1.0, 4.0, -1.0),
            (1, "mixture", 0.0, 0.5, 0.5),
            (1, "flat", 0.0, 0.5, 1.25),
            (1, "replaced", 0.0, 0.5, 0.25),
            (2, "mixture", 1.0, 0.0, 0.0),  # nothing usable: no share of its own
            (2, "flat", 1.0, 0.0, 0.0),
            (2, "replaced", 1.0, 0.0, 0.0),
        ],
        columns=["prompt", "reader", "vector", "usable", "used"],
    )
    rows = rows.assign(template=rows.prompt % 2, distribution=1.0, available=0.5)
    parts = info.bits_estimates(rows)
    assert {name: (part.value, part.n) for name, part in parts.items()} == {
        "vector_share": (pytest.approx(2 / 3), 3),
        "available_bits": (0.5, 3),
        "used_share": (pytest.approx(2.5 / 4.5), 3),
        "used_median": (0.75, 2),  # of 0.5 and 1
        "used_flat": (0.5, 3),
        "used_over_flat": (pytest.approx(0.25 / 4.5), 3),
        "used_replaced": (pytest.approx(-0.75 / 4.5), 3),
        "used_over_replaced": (pytest.approx(3.25 / 4.5), 3),
    }
    # drawn together, template by template: 1 of 4 bits, or -0.75 of 0.5
    over = parts["used_over_flat"]
    assert (over.low, over.high) == (-1.5, 0.25)


def test_two_measures_of_the_same_readers_agree_on_who_is_nearer():
    steps = [context([0.6, 0.3, 0.1], n) for n in range(3)]
    for read, sign in ((whole, 1), (top_only, 0)):
        rows = info.bits_rows(planted(read), steps, [True] * 3).assign(model="m")
        table = info.compare_measures(rows).query("over == 'top token'").dropna()
        won = table[["KL", "JS"]].map(lambda text: float(text.split()[0]))
        assert ((won > 0.01) == sign).all(axis=None) and len(won)


@pytest.mark.parametrize("kind", ["gpt2", "qwen2"])
def test_a_shared_cache_equals_reading_the_whole_text(kind):
    from transformers import AutoModelForCausalLM, GPT2Config, Qwen2Config

    torch.manual_seed(0)
    config = (
        GPT2Config(vocab_size=50, n_embd=16, n_layer=2, n_head=2)
        if (kind == "gpt2")
        else Qwen2Config(
            vocab_size=50,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
        )
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    embed = model.get_input_embeddings().weight.detach()
    lm = SimpleNamespace(model=model, embed=embed)
    prefix, vectors = lm.embed[[3, 1, 4, 1]], lm.embed[[5, 9, 2]]
    got = contexts.next_probs(lm, prefix, vectors, batch=2)
    for token, row in zip([5, 9, 2], got):
        ids = torch.tensor([[3, 1, 4, 1, token]])
        whole_text = model(input_ids=ids).logits[0, -1].double().softmax(-1)
        assert torch.allclose(row, whole_text, atol=1e-5)
