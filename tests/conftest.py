"""Fixtures: tiny models with random weights, and the embedded ones."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # starts faster

import pytest
import torch
from tiny import MINI, STORIES, TINY, named

from helpers.models import LM, load

torch.set_num_threads(1)


@pytest.fixture(scope="session", params=[*TINY, *MINI])
def lm(request) -> LM:
    """Each of the tiny models and each of the embedded ones."""
    return named(request.param)


@pytest.fixture(scope="session")
def tiny() -> LM:
    """One tiny model, where one is enough."""
    return named("qwen2")


@pytest.fixture(scope="session")
def stories() -> LM:
    """A real Llama that others trained, where it is at hand."""
    if not STORIES.exists():
        pytest.skip("shared/models/stories260k is not beside this checkout")
    return load(str(STORIES), device="cpu")
