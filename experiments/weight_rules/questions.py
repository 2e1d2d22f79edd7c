"""Questions for the meaning of a word, and whether a text answers one (W6, W7).

questions   a set's words in several wordings, near copies of each other
is_correct  whether a text says what is meant
"""

from __future__ import annotations

from experiments.prompts import MEANING_OF, Item, is_mini, reworded, suites
from experiments.scoring import is_right, starts_with_answer


def questions(set_name: str, n: int, seed: int = 0) -> list[Item]:
    """Draw `n` questions of a set's suite `meanings`; template: the word asked for."""
    return reworded(suites(set_name)["meanings"], MEANING_OF, n, seed)


def is_correct(text: str, item: Item, set_name: str) -> bool:
    """Whether a text is right: a mini model says first, word for word, what it learnt.

    Other models say it in their own words, wherever in the text.
    """
    if is_mini(set_name):
        return starts_with_answer(text, item.gold)
    return is_right(text, item)
