"""Decoding in several ways at once gives what each way gives alone."""

import pytest
import torch

from experiments.information_analysis import ways
from helpers import MixtureConfig, batching, generate_concepts, load
from helpers.models import chat_prompt

PROMPTS = ["The baker feeds the", "The capital of France is", "2 plus 3 equals", "The"]


@pytest.fixture(scope="module")
def chat():
    return load("mini-qwen2", device="cpu")


@pytest.mark.parametrize("name", ["mini-gpt2", "mini-qwen2"])
def test_each_way_is_what_the_loop_decodes(name):
    lm = load(name, device="cpu")
    prompts = PROMPTS + [
        chat_prompt(lm, p) for p in PROMPTS if lm.tokenizer.chat_template
    ]
    modes = ["discrete", "continuous", "gated"]
    found = ways.decode_answers(lm, prompts, 8, [*modes, "sampled"], samples=2)
    for mode in modes:
        trace = generate_concepts(lm, prompts, 8, MixtureConfig(mode=mode))
        texts = lm.tokenizer.batch_decode(trace.tokens, skip_special_tokens=True)
        assert found[mode] == [texts]
    assert len(found["sampled"]) == 2


def test_what_prompts_have_in_common_changes_nothing(chat, monkeypatch):
    prompts = [
        chat_prompt(chat, f"What is {a} plus {b}?") for a in (1, 2) for b in (3, 4)
    ]
    whole = ways.decode_answers(chat, prompts, 6, ["discrete", "continuous"])
    monkeypatch.setattr(batching, "LEAST_SHARED", 99)
    assert ways.decode_answers(chat, prompts, 6, ["discrete", "continuous"]) == whole


def test_samples_are_drawn_with_the_weights(chat):
    prompt = "The baker feeds the"
    trace = generate_concepts(chat, [prompt], 1)
    said = ways.decode_answers(chat, [prompt], 1, ["sampled"], samples=2000)["sampled"]
    for rank in range(2):
        text = chat.tokenizer.decode(trace.indices[0, 0, rank])
        share = sum(texts[0] == text for texts in said) / len(said)
        assert share == pytest.approx(float(trace.probs[0, 0, rank]), abs=0.04)


def test_what_was_fed_the_same_is_read_once(chat, monkeypatch):
    rows = []
    forward = ways.CachedForward.__call__

    def counted(self, x):
        rows.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(ways.CachedForward, "__call__", counted)
    ways.decode_answers(chat, ["2 plus 3 equals"] * 3, 4, ["discrete", "gated"], 1)
    assert max(rows) <= 3 * 2 and sum(rows) < 3 * 2 * 4
    rows.clear()
    ways.decode_answers(chat, ["2 plus 3 equals"] * 3, 4, ["sampled"], samples=50)
    assert max(rows) < 3 * 50


def test_what_has_ended_is_fed_no_more(chat, monkeypatch):
    prompt = chat_prompt(chat, "What is the capital of France?")
    steps = []
    forward = ways.CachedForward.__call__

    def counted(self, x):
        steps.append(x.shape[1])
        return forward(self, x)

    monkeypatch.setattr(ways.CachedForward, "__call__", counted)
    found = ways.decode_answers(chat, [prompt], 40, ["discrete"])
    assert found["discrete"][0][0].strip() == "Paris." and len(steps) < 10
    assert torch.is_grad_enabled()

    def settled(i, text):
        return i == 0 and "sees" in text

    prompts = ["Repeat: The cow sees the moon.", "Repeat: The dog sees the moon."]
    prompts = [chat_prompt(chat, prompt) for prompt in prompts]
    whole = ways.decode_answers(chat, prompts, 12, ["discrete"])["discrete"][0]
    decoded = ways.decode_answers(chat, prompts, 12, ["discrete"], settled=settled)
    cut = decoded["discrete"][0]
    assert whole[0].startswith(cut[0]) and cut[0].endswith("sees")
    assert cut[1] == whole[1]
