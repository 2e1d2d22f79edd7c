"""The original experiments as data: lengths, the cut, and what was printed."""

import pytest

from experiments.token_id_brittleness import cut_arithmetic
from harness import claims, judge
from harness.files import ROOT
from helpers.models import LM

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
    assert counted.equals(cut_arithmetic.cut_table())


@pytest.mark.parametrize("model", TOKENIZERS)
def test_the_originals_tokenizer_is_known_among_others(model, tiny):
    tokenizer = tokenizer_of(model)
    found = cut_arithmetic.original_tokenizers([tiny, LM(tiny.model, tokenizer)])
    assert found == {model: tokenizer}
    assert cut_arithmetic.original_tokenizers([tiny]) == {}


def test_texts_saved_whole_are_those_that_the_console_kept():
    frame = cut_arithmetic.original_experiments()
    whole = cut_arithmetic.cut_table()["saved_whole"]
    allowed = (frame["new_tokens"] == 30) & (frame["printed"] != "")
    assert whole.tolist() == allowed.tolist() and whole.sum() == 8


def verdict(table):
    parts = cut_arithmetic.cut_estimates(table).items()
    rows = [claims.measured("I0", part, estimate) for part, estimate in parts]
    return judge.judge("I0", rows, "mini").verdict


def test_i0_is_decided_by_the_lengths():
    table = cut_arithmetic.cut_table()
    found = cut_arithmetic.cut_estimates(table)
    assert {part: (e.value, e.n) for part, e in found.items()} == {
        "empty_forced": (1, 10), "text_forced": (0, 14), "length_explained": (1, 8),
    }  # fmt: skip
    assert verdict(table) == "artefact"
    # prompts that leave room, and are empty all the same: that says something
    roomy = table.assign(forced_empty=False)
    assert verdict(roomy) == "reproduced"
    # one text that the cut cannot have left, or one of another length: unexplained
    first = table["id"] == "qwen-completion-france"
    forced = table.assign(forced_empty=table["forced_empty"] | first)
    longer = table.assign(printed_tokens=table["printed_tokens"] + 1 * first)
    assert verdict(forced) == verdict(longer) == "not reproduced"


def test_a_reader_sees_every_experiment_once():
    table = cut_arithmetic.cut_table()
    assert cut_arithmetic.cut_summary(table)["experiments"].sum() == len(table)
    points = cut_arithmetic.cut_points(table)
    assert points["experiments"].sum() == len(table)
    named = " ".join(points["names"])
    assert all(word in named for word in ("method 1", "method 3", "qwen instruction"))


def test_every_row_says_where_it_was_read():
    frame = cut_arithmetic.original_experiments()
    assert frame["id"].is_unique and (frame["read_from"] != "").all()
    assert set(frame["model"]) == set(TOKENIZERS)
