"""The original experiments as data: lengths, the cut, and what was printed."""

import pytest

from experiments.token_id_brittleness import cut_arithmetic
from harness.files import ROOT

TOKENIZERS = {
    "Qwen/Qwen2.5-1.5B-Instruct": "qwen2.5-1.5b-instruct",
    "openai-community/gpt2": "gpt2",
}


def tokenizer_of(model):
    from transformers import AutoTokenizer

    folder = ROOT.parent / "shared" / "tokenizers" / TOKENIZERS[model]
    if not folder.is_dir():
        pytest.skip("the paper's tokenizers are not at hand")
    return AutoTokenizer.from_pretrained(folder)


def test_nothing_was_printed_exactly_where_nothing_could_remain():
    table = cut_arithmetic.cut_table()
    assert table["forced_empty"].tolist() == table["printed_empty"].tolist()
    assert table["forced_empty"].sum() == 10 and (table["vectors"] > 1).all()


@pytest.mark.parametrize("model", TOKENIZERS)
def test_committed_lengths_are_the_tokenizers(model):
    counted = cut_arithmetic.cut_table({model: tokenizer_of(model)})
    assert counted["vectors"].tolist() == cut_arithmetic.cut_table()["vectors"].tolist()


@pytest.mark.parametrize("model", TOKENIZERS)
def test_texts_saved_whole_have_as_many_tokens_as_the_cut_leaves(model):
    tokenizer, table = tokenizer_of(model), cut_arithmetic.cut_table().set_index("id")
    saved = cut_arithmetic.original_experiments().set_index("id")
    saved = saved[(saved["model"] == model) & (saved["new_tokens"] == 30)]
    for name, text in saved["printed"].items():
        assert len(tokenizer(text)["input_ids"]) == table["left"][name], name


def test_every_row_says_where_it_was_read():
    frame = cut_arithmetic.original_experiments()
    assert frame["id"].is_unique and (frame["read_from"] != "").all()
    assert set(frame["model"]) == set(TOKENIZERS)
