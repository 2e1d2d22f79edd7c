"""Floors keep what they say and lose the rest; tests/helpers tests their draws."""

import torch

from experiments import floors


def test_random_vectors_have_the_norms_and_not_the_directions():
    vectors = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    vectors *= torch.arange(1, 41)[:, None]
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        given = vectors.to(dtype)
        drawn = floors.random_like(given, torch.Generator().manual_seed(1))
        assert drawn.dtype == dtype and drawn.shape == given.shape
        norms = drawn.float().norm(dim=-1) / given.float().norm(dim=-1)
        assert torch.allclose(norms, torch.ones(40), atol=tolerance)
        likeness = torch.cosine_similarity(drawn.float(), given.float(), dim=-1)
        assert likeness.abs().max() < 0.6 and likeness.mean().abs() < 0.1


def test_random_vectors_follow_their_generator():
    x = torch.ones(3, 8)
    one, same, other = (
        floors.random_like(x, torch.Generator().manual_seed(s)) for s in (0, 0, 1)
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
