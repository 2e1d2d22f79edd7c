"""A frame with a text of its own before each row, whatever that text holds."""

import pytest
import torch

from experiments.frames import SLOT, fill_frame
from harness.files import ROOT
from helpers import load


@pytest.fixture(scope="module")
def lm():
    return load(str(ROOT / "models" / "mini-gpt2"), device="cpu")


@pytest.mark.parametrize("said", ["The sea", "a {x} b", f"a {SLOT} b", ""])
def test_a_text_before_the_frame_is_text_and_never_a_second_slot(lm, said):
    vector = torch.randn(1, lm.embed.shape[1])
    (row,) = fill_frame(lm, "completion", vector, [said])
    (plain,) = fill_frame(lm, "completion", vector)
    assert sum(torch.equal(x, vector[0]) for x in row) == 1
    before = lm.embed[lm.tokenizer(said.replace(SLOT, "") + "\n")["input_ids"]]
    assert torch.equal(row[: len(before)], before)
    assert len(row) == len(before) + len(plain)


def test_words_fill_each_row_behind_its_own_text(lm):
    rows = fill_frame(lm, "direct", ["cat", "dog"], ["one", "two"])
    for row, text in zip(rows, ["one\ncat", "two\ndog"]):
        assert torch.equal(row, lm.embed[lm.tokenizer(text)["input_ids"]])
