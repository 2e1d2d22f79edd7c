"""The committed GPT-2-shaped mini model, for every test of this folder."""

import pytest

from helpers import load
from helpers.models import LM


@pytest.fixture(scope="session")
def mini() -> LM:
    """mini-gpt2 on the CPU."""
    return load("mini-gpt2", device="cpu")
