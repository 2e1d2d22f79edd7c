"""The prompt suites."""

import pytest

from experiments.prompts import prompt_suite

PROMPTS = ["The capital of France is", "2 plus 2 equals", "The baker feeds the"]


def test_the_suite_starts_with_the_write_ups_prompts_and_has_no_doubles():
    prompts = prompt_suite(110)
    assert prompts[:2] == PROMPTS[:2]
    assert len(prompts) == len(set(prompts)) == 112
    assert prompt_suite(60) == prompts[:62]
    for n in (0, 10_000):
        with pytest.raises(ValueError, match=f"n={n}"):
            prompt_suite(n)
