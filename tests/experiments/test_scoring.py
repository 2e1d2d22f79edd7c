"""Answers are matched by whole words, and batches change nothing."""

import pytest
import torch

from experiments import scoring
from experiments.prompts import suites
from helpers.batching import prompt_embeds


@pytest.mark.parametrize(
    "text, answer, contains, starts",
    [
        ("Paris.", "paris", True, True),
        ("It is Paris, of course", "Paris", True, False),
        ("Parisian", "Paris", False, False),
        ("14", "4", False, False),
        ("twenty-one men", "twenty one", True, True),
        ("ran niñas", "niña", False, False),
        ("anything", "", False, False),
        ("", "Paris", False, False),
    ],
)
def test_matchers_compare_whole_words_and_differ_in_the_place(
    text, answer, contains, starts
):
    assert scoring.contains_answer(text, [answer]) is contains
    assert scoring.starts_with_answer(text, answer) is starts


def test_one_of_several_answers_is_enough():
    assert scoring.contains_answer("a cat", ["dog", "", "cat"])
    assert not scoring.contains_answer("a cat", [])


def test_prompts_are_texts_or_ids_and_never_empty(tiny):
    assert scoring.token_ids(tiny, ["w5 w6", [3, 4]]) == [[8, 9], [3, 4]]
    with pytest.raises(ValueError, match="no prompts"):
        scoring.token_ids(tiny, [])
    with pytest.raises(ValueError, match="prompt 2 is empty"):
        scoring.token_ids(tiny, [[3], []])


def test_batches_hold_rows_of_one_length_once_each():
    rows = [[1, 2], [3], [4, 5], [6, 7], [8]]
    batches = scoring.equal_length_batches(rows, size=2)
    assert batches == [[0, 2], [3], [1, 4]]  # by first occurrence, two at most


def test_a_long_prompt_of_a_large_vocabulary_goes_alone(tiny, monkeypatch):
    assert scoring.rows_per_batch(tiny, 10) == scoring.MOST_ROWS
    monkeypatch.setattr(scoring, "MOST_LOGITS", 3000)
    assert scoring.rows_per_batch(tiny, 10) == 3
    assert scoring.rows_per_batch(tiny, 10**6) == 1


def test_teacher_forced_logprobs_are_those_of_one_prompt_at_a_time(tiny, monkeypatch):
    prompts, steps = ["w5 w6 w7", "w8", "w9 w10"], 4
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, steps, tiny.embed.shape[1], generator=generator)
    targets, lengths = scoring.pad_targets([[5, 6, 7, 8], [9], [10, 11]], steps)
    assert targets[1].tolist() == [9, 0, 0, 0] and lengths.tolist() == [4, 1, 2]
    prompts, vectors = prompts * 2, vectors.repeat(2, 1, 1)
    targets = torch.cat([targets, targets + 3])
    monkeypatch.setattr(scoring, "MOST_LOGITS", 2 * 4 * 100)  # two rows a batch
    log_p = scoring.teacher_forced_logprobs(tiny, prompts, vectors, targets)
    for b, prompt in enumerate(prompts):
        embeds = torch.cat([prompt_embeds(tiny, [prompt])[0][0], vectors[b]])
        logits = tiny.model(inputs_embeds=embeds[None]).logits[0, -steps - 1 : -1]
        wanted = logits.log_softmax(-1).gather(-1, targets[b][:, None])[:, 0]
        assert torch.allclose(log_p[b], wanted, atol=1e-4)


def test_a_spanish_content_is_read_back_in_any_of_its_translations():
    natural = suites("smollm2")
    assert scoring.acceptable_answers("mesa", natural) == ("mesa", "table", "desk")
    answers = scoring.acceptable_answers(" La casa es blanca.", natural)
    assert answers == ("La casa es blanca.", "The house is white.")
    assert scoring.acceptable_answers("mesa") == ("mesa",)  # mini's has sentences only
    sentence = "El gato ve el pan."
    said = scoring.acceptable_answers(sentence)
    assert said == (sentence, "The cat sees the bread.")
