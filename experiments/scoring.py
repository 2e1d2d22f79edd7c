"""Compare answers with texts, and ask a model about many prompts at once.

contains_answer          whether a text holds one of several answers
starts_with_answer       whether a text begins with the answer
is_right                 whether a text answers an item: one accepted, all required
acceptable_answers       every wording that counts as a word read back
normalise_words          what all four compare: lower-case words and numbers
count_scripts            letters of a text by script

token_ids                prompts as id lists
equal_length_batches     group prompts of one length, which need no padding
rows_per_batch           how many prompts' logits to hold at once
continue_by_length       what a model says after rows of embeddings
teacher_forced_logprobs  log-probabilities of tokens along given vectors
pad_targets              id lists as the tensor that it takes
"""

from __future__ import annotations

import inspect
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch

from experiments.prompts import MEANINGS, SUITES, Item
from helpers.decode import continue_from
from models.world import number_word

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.models import LM

MOST_LOGITS = 2**25  # numbers in one batch of logits: 128 MB in float32
MOST_ROWS = 64  # prompts in one batch


def normalise_words(text: str) -> list[str]:
    """List the words and numbers of a text, lower case, punctuation left out."""
    return re.findall(r"[^\W_]+", text.lower())


def _phrase(text: str) -> str:
    return " ".join(normalise_words(text))


def contains_answer(text: str, answers: Iterable[str]) -> bool:
    """Whether one of the answers stands anywhere in a text, as whole words in order.

    For texts read from a vector, which may put the word into a sentence.
    """
    said = f" {_phrase(text)} "
    return any(f" {phrase} " in said for phrase in map(_phrase, answers) if phrase)


def starts_with_answer(text: str, answer: str) -> bool:
    """Whether a text begins with the answer, as whole words.

    For continuations cut at a fixed length, in which later words answer nothing.
    """
    phrase = _phrase(answer)
    return bool(phrase) and f"{_phrase(text)} ".startswith(f"{phrase} ")


def is_right(text: str, item: Item) -> bool:
    """Whether a text holds an accepted answer, where any is, and all that is required.

    False where nothing is right.
    """
    if not (item.accepted or item.required):
        return False
    found = not item.accepted or contains_answer(text, item.accepted)
    return found and all(contains_answer(text, [part]) for part in item.required)


def acceptable_answers(
    content: str, asked: Mapping[str, tuple[Item, ...]] = SUITES
) -> tuple[str, ...]:
    """List what counts as a content read back: itself, its meaning, its translations.

    asked: the suites that say what a Spanish content means. A number below 40 may be
    written in words.
    """
    content = content.strip()
    spanish = chain(asked["spanish"], asked.get("spanish_words", ()))
    said = [phrase for i in spanish if i.prompt == content for phrase in i.accepted]
    answers = [content, MEANINGS.get(content, ""), *said]
    if content.isdigit() and int(content) < 40:
        answers.append(number_word(int(content)))
    return tuple(answer for answer in answers if normalise_words(answer))


def count_scripts(text: str) -> Counter[str]:
    """Count the letters of a text by script (LATIN, CYRILLIC, ...), by Unicode name."""
    letters = (ch for ch in text if ch.isalpha())
    return Counter(unicodedata.name(ch, "UNKNOWN").split()[0] for ch in letters)


def token_ids(lm: LM, prompts: list[str] | list[list[int]]) -> list[list[int]]:
    """Encode prompts as id lists; texts with the tokenizer's defaults.

    ValueError for no prompt, or an empty one.
    """
    if not len(prompts):
        raise ValueError("no prompts: expected at least one")
    rows = [
        lm.tokenizer(p)["input_ids"] if isinstance(p, str) else list(p) for p in prompts
    ]
    for number, row in enumerate(rows, 1):
        if not row:
            raise ValueError(f"prompt {number} is empty: give it at least one token")
    return rows


def equal_length_batches(
    rows: list[list[int]], size: int = MOST_ROWS
) -> list[list[int]]:
    """Group rows of one length, at most `size` a batch -> their positions in `rows`.

    Batches stand in the order in which their lengths first occur.
    """
    by_length: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(i)
    return [
        same[first : first + size]
        for same in by_length.values()
        for first in range(0, len(same), size)
    ]


def continue_by_length(
    lm: LM, rows: Sequence[Tensor], max_new_tokens: int = 50, **how: Any
) -> list[Any]:
    """Continue rows (L_i,D) greedily, those of about one length together.

    how: of `continue_from`, which does not sort; what it returns, in the rows' order.
    """
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    said = continue_from(lm, [rows[i] for i in order], None, max_new_tokens, **how)
    found = dict(zip(order, said))
    return [found[i] for i in range(len(rows))]


def rows_per_batch(lm: LM, longest: int) -> int:
    """How many rows of `longest` positions keep the logits below MOST_LOGITS."""
    return max(1, min(MOST_ROWS, MOST_LOGITS // (longest * lm.embed.shape[0])))


@torch.no_grad()
def teacher_forced_logprobs(
    lm: LM, prompts: list[str], vectors: Tensor, targets: Tensor
) -> Tensor:
    """Compute the log-probability, in nats, of tokens along vectors (B,T,D): (B,T).

    That of targets (B,T) just before vector t is fed, so the last is not read; on the
    CPU. One pass without a cache; prompts of one length make a batch.
    """
    ids, steps = token_ids(lm, prompts), vectors.shape[1]
    vectors, targets = vectors.to(lm.device, lm.dtype), targets.to(lm.device)
    log_p = torch.zeros(targets.shape)
    accepted = inspect.signature(lm.model.forward).parameters
    options = {"logits_to_keep": steps} if "logits_to_keep" in accepted else {}
    for batch in equal_length_batches(ids, rows_per_batch(lm, steps)):
        rows = lm.embed[torch.tensor([ids[i] for i in batch], device=lm.device)]
        rows = torch.cat([rows, vectors[batch, :-1]], dim=1)
        out = lm.model(inputs_embeds=rows, use_cache=False, **options)
        logits = out.logits[:, -steps:].float()
        found = logits.gather(-1, targets[batch, :, None])[..., 0]
        log_p[batch] = (found - logits.logsumexp(-1)).cpu()
    return log_p


def pad_targets(chains: list[list[int]], steps: int) -> tuple[Tensor, Tensor]:
    """Stack id lists as (B,T), zeros past their lengths (B,)."""
    lengths = torch.tensor([len(ids) for ids in chains])
    rows = [list(ids) + [0] * (steps - len(ids)) for ids in chains]
    return torch.tensor(rows), lengths
