"""One-token mixtures against greedy decoding."""

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
