"""The suspects of Table 4.3: what generate returns, and what a slice leaves of it."""

import warnings

import pytest
import torch

from experiments import hf_reference
from experiments.token_id_brittleness import generate_settings, prompt_slicing
from experiments.token_id_brittleness.planted_models import looks_at_ids

LONG = [[5, 6, 7, 8, 9, 10, 11, 12], [13, 14, 15, 16, 17, 18, 19, 20]]
SHORT = [[5, 6], [7], [8, 9]]


def test_the_slice_empties_what_is_no_longer_than_the_prompt(tiny):
    ways = prompt_slicing.four_ways(tiny, LONG, SHORT, max_new_tokens=6)
    cut = ways[(ways["input"] == "embeds") & (ways["decoded"] == "sliced")]
    chat, plain = (cut[cut["format"] == kind] for kind in ("chat", "plain"))
    assert (chat["text"] == "").all() and (chat["shown_new"] == 0).all()
    left = plain["new_tokens"] - plain["prompt_tokens"]
    assert (plain["shown_new"] == left).all() and (plain["text"] != "").all()
    right = ways[(ways["input"] == "ids") & (ways["decoded"] == "sliced")]
    whole = ways[(ways["input"] == "embeds") & (ways["decoded"] == "whole")]
    assert right["raw"].tolist() == whole["raw"].tolist()
    table = prompt_slicing.table_4_3(ways)
    empty = table.set_index(["input", "format", "decoded"])["empty"]
    assert len(table) == 8 and empty["embeds", "chat", "sliced"] == 1
    assert empty.sum() == 1


@pytest.mark.parametrize("setting", generate_settings.SETTINGS)
def test_each_difference_alone(tiny, setting):
    """Without prompt ids the penalty, and without a pad id the mask, act otherwise."""
    frame = generate_settings.compare_paths(
        tiny, LONG + SHORT, setting, max_new_tokens=8
    )
    assert len(frame) == 5 and not frame["empty"].any()
    if setting in ("bare", "sampling"):
        assert frame["same"].all()
    if setting == "mask":
        assert frame["same"][:2].all() and not frame["same"].all()


def test_a_strong_penalty_differs_where_prompts_hold_the_answer(tiny, monkeypatch):
    monkeypatch.setitem(
        generate_settings.SETTINGS, "penalty", {"repetition_penalty": 9.0}
    )
    answers = hf_reference.generate_tokens(tiny, LONG, "embeds", 1)
    prompts = [[*new, *row] for new, row in zip(answers, LONG)]
    again = hf_reference.generate_tokens(tiny, prompts, "embeds", 1)
    prompts = [[*new, *row] for new, row in zip(again, prompts)]
    frame = generate_settings.compare_paths(tiny, prompts, "penalty", max_new_tokens=8)
    assert not frame["same"].all()


def test_sampling_draws_alike_on_both_paths_and_not_from_greedy(tiny):
    sampled = generate_settings.compare_paths(
        tiny, LONG * 4, "sampling", max_new_tokens=8
    )
    greedy = generate_settings.compare_paths(tiny, LONG * 4, "bare", max_new_tokens=8)
    assert sampled["same"].all() and (sampled["ids"] != greedy["ids"]).any()


def test_a_model_that_looks_at_ids_differs_when_decoded_rightly(tiny):
    planted = looks_at_ids(tiny, trigger=7, by=1e3)
    planted.model.generate = _greedy(planted.model)
    frame = generate_settings.compare_paths(
        planted, [[5, 7], [7, 9]], "bare", max_new_tokens=3
    )
    assert not frame["same"].any()


def _greedy(model):
    """A stand-in for generate: one step at a time, ids as ids."""

    def generate(input_ids=None, inputs_embeds=None, max_new_tokens=0, **_):
        given = {"input_ids": input_ids, "inputs_embeds": inputs_embeds}
        logits = model(**{k: v for k, v in given.items() if v is not None}).logits
        new = logits[:, -1:].argmax(-1)
        return new if input_ids is None else torch.cat([input_ids, new], dim=1)

    return generate


def test_one_vector_prompts_are_right_here_and_wrong_when_refed(tiny):
    frame = generate_settings.compare_one_vector(
        tiny, [5, 23, 40, 61], max_new_tokens=8
    )
    assert frame["same"].all() and (frame["refed"] != frame["ids"]).any()


def test_no_warning_reaches_the_reader(tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for difference in generate_settings.SETTINGS:
            generate_settings.compare_paths(tiny, SHORT, difference, max_new_tokens=2)
