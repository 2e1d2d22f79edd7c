"""The Appendix's function as printed."""

import pytest
import torch

from experiments.generation import appendix


def test_the_snippet_fails_on_the_shape_a_model_gives():
    embed, z = torch.randn(99, 16), torch.randn(99)
    weights, concept = appendix.generate_concept_token(z, embed)
    assert weights.shape == (50,) and concept.shape == (16,)
    with pytest.raises(RuntimeError, match="50"):
        appendix.generate_concept_token(z[None], embed)
