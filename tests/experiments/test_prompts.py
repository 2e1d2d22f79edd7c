"""The prompt suites."""

from collections import Counter
from itertools import chain

import pytest

from experiments import screen_prompts
from experiments.prompts import (
    FRAMES,
    OPEN,
    SCREENING,
    SUITES,
    is_open,
    natural_candidates,
    prompt_suite,
    screened_p_max,
    suites,
    template_of,
)
from experiments.scoring import contains_answer, is_right, normalise_words
from models.public import public_models
from tests.tiny import named

PROMPTS = ["The capital of France is", "2 plus 2 equals", "The baker feeds the"]


def test_the_suite_starts_with_the_write_ups_prompts_and_has_no_doubles():
    prompts = prompt_suite(SUITES, 110)
    assert prompts[:2] == PROMPTS[:2]
    assert len(prompts) == len(set(prompts)) == 112
    assert prompt_suite(SUITES, 60) == prompts[:62]
    for n in (0, 10_000):
        with pytest.raises(ValueError, match=f"n={n}"):
            prompt_suite(SUITES, n)


def test_mini_is_asked_about_its_world_and_all_other_sets_in_natural_language():
    assert suites("mini") is suites("mini-bfloat16") is SUITES
    natural = suites("smollm2")
    assert natural is suites("paper") is suites("a-name-of-yours")
    assert natural.keys() >= SUITES.keys()
    assert not {item.prompt for item in natural["ambiguous"]} & {
        item.prompt for item in SUITES["ambiguous"]
    }
    prompts = prompt_suite(natural, 60)
    assert prompts[:2] == PROMPTS[:2] and len(set(prompts)) == 62
    assert all(map(template_of, prompts))


@pytest.mark.parametrize("set_name", ["mini", "smollm2"])
def test_no_prompt_comes_twice_and_what_is_asked_has_an_answer(set_name):
    for name, items in suites(set_name).items():
        assert len({item.prompt for item in items}) == len(items), name
        assert len({item.id for item in items}) == len(items), name
        for item in items:
            assert item.suite == name and item.template
            assert "_" not in item.prompt and item.prompt == item.prompt.strip()
            phrases = item.accepted + item.required
            assert all(map(normalise_words, phrases)), item
            assert bool(phrases) is (name != "ambiguous"), item
            assert item.gold == "".join(item.accepted[: not item.required])


def test_each_natural_suite_is_large_enough():
    counts = {name: len(items) for name, items in suites("smollm2").items()}
    least = dict(capitals=40, sums=60, meanings=60, spanish=60, spanish_words=60)
    least |= dict(instructions=60, long=40, ambiguous=100)
    assert all(counts[name] >= n for name, n in least.items()), counts


def test_continuations_are_open_on_each_public_model_and_of_many_families():
    found = [screened_p_max()[item.prompt] for item in suites("smollm2")["ambiguous"]]
    assert len(found) >= 150 and all(len(p_max) == 3 for p_max in found)
    for model in zip(*found):
        assert sum(OPEN[0] <= p <= OPEN[1] for p in model) >= 100
    assert len({item.template for item in suites("smollm2")["ambiguous"]}) >= 60
    families = Counter(item.template for item in natural_candidates())
    assert len(families) >= 60 and sum(families.values()) >= 300
    assert 3 <= min(families.values()) <= max(families.values()) <= 6


def test_every_candidate_was_screened_by_every_public_model():
    models = screened_p_max()
    assert models.keys() == {item.prompt for item in natural_candidates()}
    assert {len(p_max) for p_max in models.values()} == {3}
    with SCREENING.open(encoding="utf-8") as file:
        _, *names = next(file).strip().split(",")
    assert set(names) == set(public_models())


@pytest.mark.parametrize(
    "p_max, kept",
    [
        ((0.3, 0.8, 0.1), True),
        ((0.9, 0.5, 0.5), True),
        ((0.29, 0.81, 0.5), False),
        ((0.5, 0.5), True),
        ((), False),
    ],
)
def test_a_continuation_is_used_if_it_is_open_on_two_models(p_max, kept):
    assert is_open(p_max) is kept


def test_screening_adds_what_a_model_has_not_seen(tmp_path, monkeypatch):
    table, items = tmp_path / "screening.csv", natural_candidates()[:3]
    monkeypatch.setattr(screen_prompts, "natural_candidates", lambda: items[:2])
    screen_prompts.screen("mini-gpt2", table)
    first = table.read_text().splitlines()
    assert first[0] == "prompt,mini-gpt2" and len(first) == 3
    lm = named("mini-gpt2")
    ids = lm.tokenizer(items[1].prompt, return_tensors="pt")["input_ids"]
    p = lm.model(ids).logits[0, -1].softmax(-1).max().item()
    assert float(first[2].rsplit(",")[-1]) == pytest.approx(p, abs=1e-4)
    table.write_text(table.read_text().replace(first[1], f"{items[0].prompt},0.1234"))
    monkeypatch.setattr(screen_prompts, "natural_candidates", lambda: items)
    screen_prompts.screen("mini-gpt2", table)
    again = table.read_text().splitlines()
    assert again[1] == f"{items[0].prompt},0.1234" and again[2] == first[2]
    assert len(again) == 4 and again[3].startswith(items[2].prompt)


def test_the_words_of_the_identity_list_are_no_natural_answers():
    list_words = FRAMES["patchscopes"].text.replace("{x}", "").replace("->", ";")
    list_words = {word.strip() for word in list_words.split(";")} - {""}
    assert list_words == {"seven", "Canada", "painter", "new"}
    for item in chain(*suites("smollm2").values()):
        if item.suite in ("long", "instructions"):
            continue  # asked in chat, never read by a frame
        assert not list_words & set(item.accepted), item


@pytest.mark.parametrize(
    "suite, prompt, right, wrong",
    [
        ("spanish", "El coche es rojo.", "The car is red", "The car is"),
        ("spanish_words", "mesa", "It means table.", "tablet"),
        ("long", "Count from 1 to 20.", ", ".join(map(str, range(1, 21))), "1, 2"),
        (
            "long",
            "Count down from 15 to 1.",
            " ".join(map(str, range(15, 0, -1))),
            "15 to 1",
        ),
        (
            "long",
            "Explain in a few sentences what a volcano is.",
            "A volcano is a mountain from which lava flows.",
            "A volcano is a mountain.",
        ),
        (
            "long",
            "List the four seasons and say what the weather is like in each.",
            "Winter: cold. Spring: mild. Summer: hot. Fall: cool.",
            "Winter is cold, spring is mild.",
        ),
        ("capitals", "The capital of India is", " New Delhi.", " Mumbai."),
        ("capitals", "The capital of Colombia is", " Bogotá.", " Quito."),
        ("sums", "19 plus 4 equals", " twenty-three.", " 24."),
        ("instructions", "What is 20 plus 15?", "It is thirty-five.", "25"),
    ],
)
def test_a_natural_answer_is_right_by_its_phrases(suite, prompt, right, wrong):
    (item,) = [i for i in suites("smollm2")[suite] if i.prompt == prompt]
    assert is_right(right, item) and not is_right(wrong, item)


def test_nothing_is_right_where_no_answer_is_named():
    item = suites("smollm2")["ambiguous"][0]
    assert not is_right("anything", item)
    assert not contains_answer("anything", item.accepted)


@pytest.mark.parametrize(
    "prompt, template",
    [
        ("The baker feeds the", "The _ feeds the"),
        ("Ana travels to", "_ travels to"),
        ("The capital of France is", "The capital of _ is"),
        ("2 plus 2 equals", "_ plus _ equals"),
        ("What is 2 plus 1?", "What is _ plus _?"),
        ("El gato ve el pan.", "_ ve _."),
    ],
)
def test_a_template_is_the_prompt_without_the_words_that_vary(prompt, template):
    assert template_of(prompt) == template


def test_every_prompt_has_a_template_and_templates_are_few():
    assert all(item.template for suite in SUITES.values() for item in suite)
    assert len({item.template for item in SUITES["ambiguous"]}) == 6
    with pytest.raises(ValueError, match="one of a suite"):
        template_of("a prompt of no suite")
