"""One-token mixtures against greedy decoding."""

import pytest

from experiments import floors
from experiments.generation import greedy_identity
from helpers import MixtureConfig

PROMPTS = ["The capital of France is", "2 plus 2 equals", "The baker feeds the"]


def test_identity_rows_see_a_difference(monkeypatch, mini):
    plain = (MixtureConfig(temperature=20.0, alpha=1.0), floors.random_tokens(0))
    monkeypatch.setitem(greedy_identity.ONE_TOKEN, "mismatch_onehot", plain)
    found = greedy_identity.identity_parts(
        greedy_identity.identity_rows(mini, PROMPTS, 6)
    )
    assert found["mismatch_onehot"].value > 0 and found["mismatch_k1"].value == 0


@pytest.mark.parametrize("padded", [True, False])
def test_every_prompt_is_compared_and_a_sample_alone(monkeypatch, mini, padded):
    sizes, run = [], greedy_identity.generate_concepts

    def counted(lm, ids, *settings, **more):
        sizes.append(len(ids))
        return run(lm, ids, *settings, **more)

    monkeypatch.setattr(greedy_identity, "generate_concepts", counted)
    monkeypatch.setattr(greedy_identity, "supports_left_padding", lambda _: padded)
    rows = greedy_identity.identity_rows(mini, PROMPTS * 3, 4, alone=3)
    found = greedy_identity.identity_parts(rows)
    assert {k: (e.value, e.n) for k, e in found.items()} == {
        part: (0, 9) for part in greedy_identity.ONE_TOKEN
    }
    kinds = len(greedy_identity.ONE_TOKEN)
    batches = [9] if padded else [3, 6]  # two of the three prompts are of one length
    assert sizes == [size for size in batches for _ in range(kinds)] + [1] * 3
