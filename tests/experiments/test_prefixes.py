"""What follows a vector does not depend on who else shares its context."""

import pytest
import torch

from experiments import prefixes
from helpers import next_logits
from helpers.models import LM
from tests.tiny import tiny_model


@pytest.mark.parametrize("kind", ("gpt2", "llama", "qwen2", "bloom"))
def test_logits_after_a_shared_context_are_those_of_the_whole_sequence(
    kind, monkeypatch
):
    lm = LM(tiny_model(kind), None, kind)
    draw = torch.Generator().manual_seed(0)
    contexts = [torch.randn(n, lm.embed.shape[1], generator=draw) for n in (3, 5, 3, 1)]
    owners = [2, 0, 0, 1, 3, 1, 0]
    vectors = torch.randn(len(owners), lm.embed.shape[1], generator=draw)
    whole = [torch.cat([contexts[i], v[None]]) for i, v in zip(owners, vectors)]
    expected = torch.cat([next_logits(lm, x[None]) for x in whole])
    for size in (256, 2):
        monkeypatch.setattr(prefixes, "BATCH", size)
        found = prefixes.logits_after(lm, contexts, owners, vectors)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
