"""Fixtures: tiny models with random weights, and the embedded ones."""

import os
import struct

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # starts faster

import pytest
import torch

from helpers.models import LM, load
from tests.tiny import MINI, STORIES, TINY, named
from tests.trial_runs import command, environment

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


@pytest.fixture
def place(tmp_path):
    """A folder with notebooks/, a hollow model, and nowhere else to write."""
    (tmp_path / "notebooks").mkdir()
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text('{"model_type": "gpt2"}')
    (model / "tokenizer.json").write_text("{}")
    (model / "model.safetensors").write_bytes(struct.pack("<Q", 2) + b"{}")
    return tmp_path


@pytest.fixture
def go(place, capsys, monkeypatch):
    """Run `reproduce` in this process; (status, what was printed, errors)."""
    from harness.run import cli

    for name, value in environment(place).items():
        monkeypatch.setenv(name, value)

    def reproduce(*more):
        status = cli.main(command(place, *more)[3:])
        return (status, *capsys.readouterr())

    return reproduce
