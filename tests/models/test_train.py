"""Training: a few steps give a folder that loads, and a killed run resumes exactly."""

import pytest
import torch

from helpers import load
from models import train
from models.chat import chat_text


@pytest.fixture
def small(monkeypatch, tmp_path):
    """A training set-up of a few seconds, writing under tmp_path only."""
    monkeypatch.setattr(train, "HERE", tmp_path)
    monkeypatch.setattr(train, "TOKENIZER_DOCUMENTS", 100)
    monkeypatch.setattr(train, "BATCH", 2)
    monkeypatch.setattr(train, "SAVE_EVERY", 2)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", list(train.STEPS))
def test_a_short_run_gives_a_folder_that_loads(small, name):
    train.train(name, 3, small / "out" / name, steps=2)
    lm = load(str(small / "out" / name), device="cpu")
    assert lm.model.config.tie_word_embeddings
    assert lm.embed.shape == (len(lm.tokenizer), train.WIDTH)
    assert (lm.tokenizer.chat_template is not None) == (name == "mini-qwen2")


def test_a_killed_run_resumes_to_the_same_weights(small, monkeypatch):
    name, out = "mini-gpt2", small / "out"
    train.train(name, 3, out / "whole", steps=4)
    whole = (out / "whole" / "model.safetensors").read_bytes()
    (small / "_work" / f"{name}-3" / "checkpoint.pt").unlink()
    real, seen = train.learning_rate, []

    def killed(step, steps):
        if step == 3 and not seen:
            seen.append(step)
            raise KeyboardInterrupt
        return real(step, steps)

    monkeypatch.setattr(train, "learning_rate", killed)
    with pytest.raises(KeyboardInterrupt):
        train.train(name, 3, out / "resumed", steps=4)
    train.train(name, 3, out / "resumed", steps=4)
    assert seen and (out / "resumed" / "model.safetensors").read_bytes() == whole


def test_the_markers_are_special_and_last(small):
    tokenizer = train.make_tokenizer("mini-qwen2", small / "tok")
    ids = tokenizer.convert_tokens_to_ids(
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    )
    assert ids == list(range(len(tokenizer) - 3, len(tokenizer)))
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Repeat: cat"}],
        add_generation_prompt=True,
        tokenize=False,
    )
    assert text == chat_text("Repeat: cat")
