"""The suspects of Table 4.3: what generate returns, and what a slice leaves of it."""

import warnings

import pytest
import torch

from experiments import hf_reference, prompts
from experiments.token_id_brittleness import generate_settings, prompt_slicing
from experiments.token_id_brittleness.planted_models import looks_at_ids

LONG = [[5, 6, 7, 8, 9, 10, 11, 12], [13, 14, 15, 16, 17, 18, 19, 20]]
SHORT = [[5, 6], [7], [8, 9]]


def test_the_slice_empties_what_is_no_longer_than_the_prompt(tiny):
    formats = {"chat": LONG, "plain": SHORT}
    ways = prompt_slicing.four_ways(tiny, formats, max_new_tokens=6)
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


def test_prompts_are_those_of_the_sets_own_suites(tiny, monkeypatch):
    monkeypatch.setattr(
        prompt_slicing, "chat_ids", lambda lm, texts: [[3 + len(t), *t] for t in texts]
    )
    lengths = {}
    for name, alike in (("mini", False), ("smollm2", True), ("smollm2", False)):
        asked = prompts.suites(name)
        chat, plain = prompt_slicing.choose_prompts(tiny, asked, 30, alike)
        long = prompt_slicing.ask_long(tiny, asked, 20)[prompt_slicing.LONG]
        chat, long = ({"".join(row[1:]) for row in rows} for rows in (chat, long))
        assert len(chat) == len({*plain}) == 30 and len(long) == 20
        assert chat <= {i.prompt for i in asked["instructions"]}
        assert long <= {i.prompt for i in asked["long"]}
        kinds = ("capitals", "sums", "ambiguous")
        sizes = [len(asked[kind]) for kind in kinds]
        for kind, size in zip(kinds, sizes):  # as many as its part of the pool
            count = len({*plain} & {i.prompt for i in asked[kind]})
            assert abs(count - 30 * size / sum(sizes)) <= 1
        lengths[name, alike] = len({*map(len, chat)})
    assert lengths["smollm2", True] < lengths["smollm2", False]
    (all_long,) = prompt_slicing.ask_long(tiny, asked, 1000).values()
    assert len(all_long) == len(asked["long"])


def test_minis_prompts_are_every_second_one_as_they_always_were(tiny, monkeypatch):
    monkeypatch.setattr(prompt_slicing, "chat_ids", lambda lm, texts: list(texts))
    chat, plain = prompt_slicing.choose_prompts(tiny, prompts.SUITES, 60)
    assert chat == [i.prompt for i in prompts.SUITES["instructions"][::2]]
    kinds = ("capitals", "sums", "ambiguous")
    pool = [i.prompt for kind in kinds for i in prompts.SUITES[kind]]
    assert plain == pool[::4][:60]


def test_the_slice_takes_from_long_answers_what_it_takes_from_short_ones(tiny):
    formats = {"chat": LONG, prompt_slicing.LONG: SHORT, "plain": SHORT}
    ways = prompt_slicing.four_ways(tiny, formats, max_new_tokens=6)
    found = prompt_slicing.empty_text_estimates(ways)
    assert found["embeds_chat_sliced"].value == 1
    assert found["long_sliced"].value == found["long_whole"].value == 0
    assert {*prompt_slicing.sliced_embeds(ways)["format"]} == {*formats}
    del formats[prompt_slicing.LONG]
    ways = prompt_slicing.four_ways(tiny, formats, max_new_tokens=6)
    assert "long_sliced" not in prompt_slicing.empty_text_estimates(ways)


def test_with_nothing_else_set_texts_are_those_generated_before(tiny):
    formats = {"chat": LONG, "plain": SHORT}
    ways = prompt_slicing.four_ways(tiny, formats, max_new_tokens=12)
    compared = generate_settings.compare_settings(tiny, ways, formats, 2, 0, 8)
    bare = compared[compared["difference"] == "bare"]
    for kind, rows in formats.items():
        again = generate_settings.compare_paths(tiny, rows, "bare", max_new_tokens=8)
        kept = bare[bare["format"] == kind].drop(columns="format")
        assert kept.reset_index(drop=True).equals(again)
    counts = compared.groupby(["difference", "format"]).size()
    assert counts["bare"].to_dict() == {"chat": 2, "plain": 3}
    assert (counts.drop("bare") == 2).all() and len(counts) == 10


def test_few_prompts_are_those_that_share_batches_but_padding_needs_lengths(
    tiny, monkeypatch
):
    prompts = [[5], [5, 6], [7, 8], [9, 10, 11], [12, 13]]
    chosen = prompt_slicing.of_common_lengths(tiny, prompts, 3)
    assert chosen == [[5, 6], [7, 8], [12, 13]]
    assert prompt_slicing.of_common_lengths(tiny, prompts, 9) == prompts
    formats, seen = {"chat": prompts}, {}
    ways = prompt_slicing.four_ways(tiny, formats, max_new_tokens=2)
    watched = generate_settings.compare_paths

    def compare_paths(lm, rows, setting, *given):
        seen[setting] = rows
        return watched(lm, rows, setting, *given)

    monkeypatch.setattr(generate_settings, "compare_paths", compare_paths)
    generate_settings.compare_settings(tiny, ways, formats, 3, 0, 2)
    assert seen["mask"] == prompts[:3] and seen["penalty"] == chosen
