"""A few concept tokens, their translation, and on: with readers that are known."""

import pytest
import torch

from experiments.prompts import SUITES
from experiments.weight_rules import rounds
from harness.files import ROOT
from helpers import generate_concepts, load


@pytest.fixture(scope="module")
def lm():
    return load(str(ROOT / "models" / "mini-gpt2"), device="cpu")


@pytest.fixture
def items():
    return list(SUITES["capitals"][:2] + SUITES["ambiguous"][:1])


def planted(monkeypatch, says):
    """Let the frame be answered by says(row embeddings) instead of by a model."""
    read = []

    def answer(lm, rows, **how):
        read.extend(rows)
        return [says(len(read) - len(rows) + b) for b in range(len(rows))]

    monkeypatch.setattr(rounds, "continue_from", answer)
    return read


def test_what_was_written_takes_the_slot_and_what_is_read_takes_its_place(
    lm, items, monkeypatch
):
    read = planted(monkeypatch, lambda b: f" w{b}\nnot this")
    prompts = [item.prompt for item in items[:2]]
    texts = rounds.write_in_rounds(lm, prompts, "completion", 3, "alone")
    assert texts == ["w0 w2", "w1 w3"]
    frame = len(lm.tokenizer("The meaning of in plain English is")["input_ids"])
    assert {len(row) for row in read[:2]} == {frame + 3}


def test_a_first_round_written_longer_gives_the_same_texts(lm, items):
    prompts = [item.prompt for item in items]
    how = lm, prompts, "completion", 2, "with context"
    longer = rounds.write(lm, prompts, 5)
    assert rounds.write_in_rounds(*how, first=longer) == rounds.write_in_rounds(*how)


def test_with_context_the_text_so_far_stands_before_the_frame(lm, items, monkeypatch):
    read = planted(monkeypatch, lambda b: " the sea")
    prompt = items[0].prompt
    rounds.write_in_rounds(lm, [prompt], "completion", 2, "with context")
    ids = lm.tokenizer(prompt)["input_ids"]
    for row in read:
        assert torch.equal(row[: len(ids)], lm.embed[ids])
    assert len(read[1]) > len(read[0])  # the first translation is in the text by then


def test_a_reader_that_says_what_was_written_keeps_it_and_a_deaf_one_does_not(
    lm, items, monkeypatch
):
    prompts = [item.prompt for item in items]
    greedy = generate_concepts(lm, prompts, 4, rounds.GREEDY).tokens
    said = [lm.tokenizer.decode(row) for row in greedy]
    monkeypatch.setattr(rounds, "ROUNDS", 1)

    def answer(lm, prompts, frame, length, context, filling="", first=None):
        return said if context == "alone" else ["nothing of it"] * len(prompts)

    monkeypatch.setattr(rounds, "write_in_rounds", answer)
    parts = rounds.round_parts(rounds.round_rows(lm, items, [4]))
    assert parts["completion", 4, "alone"]["kept"].value == 1
    assert parts["completion", 4, "with context"]["kept"].value < 0.5


@pytest.mark.parametrize(
    "whole, text, share",
    [("a b c d", "a x c", 0.5), ("a b", "b a", 0.5), ("", "x", 1.0), ("a", "", 0.0)],
)
def test_words_kept_counts_words_in_order(whole, text, share):
    assert rounds.words_kept(whole, text) == share


def test_another_prompt_has_another_wording(items):
    assert rounds._another(items, 0) == 2 and rounds._another(items[:2], 0) == 0
