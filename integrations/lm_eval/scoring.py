"""Score the task concept_meanings: right where one accepted word or phrase is said.

lm-evaluation-harness loads this file by its path; it imports nothing of the repository.
"""

import re


def process_results(doc: dict, results: list[str]) -> dict[str, float]:
    """Score one answer: doc["accepted"] holds phrases with "|" between them."""
    said = f" {_words(results[0])} "
    accepted = map(_words, doc["accepted"].split("|"))
    return {"right": float(any(f" {phrase} " in said for phrase in accepted))}


def _words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower()))
