"""The prompt suites."""

import pytest

from experiments.prompts import SUITES, prompt_suite, template_of

PROMPTS = ["The capital of France is", "2 plus 2 equals", "The baker feeds the"]


def test_the_suite_starts_with_the_write_ups_prompts_and_has_no_doubles():
    prompts = prompt_suite(110)
    assert prompts[:2] == PROMPTS[:2]
    assert len(prompts) == len(set(prompts)) == 112
    assert prompt_suite(60) == prompts[:62]
    for n in (0, 10_000):
        with pytest.raises(ValueError, match=f"n={n}"):
            prompt_suite(n)


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
