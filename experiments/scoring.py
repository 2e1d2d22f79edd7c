from __future__ import annotations

import re
import unicodedata
from collections import Counter
from typing import TYPE_CHECKING

import torch

from experiments.prompts import MEANINGS, SUITES
from helpers.batching import prompt_embeds
from models.facts import NUMBERS

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.models import LM

BATCH = 2**25  # numbers in one batch of logits, at most


@torch.no_grad()
def teacher_forced_logprobs(
    lm: LM, prompts: list[str], vectors: Tensor, targets=None
) -> tuple:
    """What the model expects at each of T steps, having read a prompt and the vectors
    (B,T,D) before that step: its top ids (B,T), and the log-probability in nats (B,T)
    of `targets` (B,T), by default of the top ids. On the CPU; one pass, no cache.
    """
    top, log_p = [], []
    lengths, batches = _padded(lm, prompts, vectors)
    steps = torch.arange(vectors.shape[1])
    for rows, embeds in batches:
        logits = lm.model(inputs_embeds=embeds, use_cache=False).logits
        at = lengths[rows, None] - 1 + steps
        logits = torch.stack([x[i.to(x.device)] for x, i in zip(logits, at)]).float()
        top.append(logits.argmax(-1).cpu())
        wanted = top[-1] if targets is None else targets[rows].cpu()
        found = logits.log_softmax(-1).gather(-1, wanted.to(logits.device)[..., None])
        log_p.append(found[..., 0].cpu())
    return torch.cat(top), torch.cat(log_p)


def _padded(lm, prompts, vectors):
    """Prompt lengths (B,), and batches (rows, inputs_embeds) padded on the right, where
    a causal model does not see the padding."""
    rows = [prompt_embeds(lm, [p])[0][0] for p in prompts]
    lengths = torch.tensor([len(row) for row in rows])
    vectors = vectors.to(lm.device, lm.dtype)
    rows = [torch.cat([row, v]) for row, v in zip(rows, vectors)]
    longest = max(len(row) for row in rows)
    size = max(1, min(64, BATCH // (longest * lm.embed.shape[0])))
    batches = []
    for start in range(0, len(rows), size):
        some = torch.nn.utils.rnn.pad_sequence(rows[start : start + size], True)
        batches.append((torch.arange(start, start + len(some)), some))
    return lengths, batches


def pad_targets(chains: list[list[int]], steps: int) -> tuple[Tensor, Tensor]:
    """Chains as ids (B,T), zeros past their lengths (B,)."""
    lengths = torch.tensor([len(ids) for ids in chains])
    rows = [list(ids) + [0] * (steps - len(ids)) for ids in chains]
    return torch.tensor(rows), lengths


TRANSLATED = {item.prompt: item.gold for item in SUITES["spanish"]}


def acceptable_answers(content: str) -> tuple[str, ...]:
    """What counts as a content read back: itself, its meaning, its translation."""
    content = content.strip()
    out = [content, MEANINGS.get(content, ""), TRANSLATED.get(content, "")]
    if content.isdigit() and int(content) < 40:
        tens, unit = divmod(int(content), 10)
        name = NUMBERS[int(content)] if tens < 2 else ("twenty", "thirty")[tens - 2]
        out.append(f"{name}-{NUMBERS[unit]}" if tens > 1 and unit else name)
    return tuple(phrase for phrase in out if normalise_words(phrase))


def normalise_words(text: str) -> list[str]:
    """Words and numbers of a text, lower case."""
    return re.findall(r"[^\W_]+", text.lower())


def contains_answer(text: str, wanted: tuple[str, ...]) -> bool:
    """Whether a text contains one of the wanted phrases, whole words, in order."""
    heard = f" {' '.join(normalise_words(text))} "
    phrases = [" ".join(normalise_words(phrase)) for phrase in wanted]
    return any(f" {phrase} " in heard for phrase in phrases if phrase)


def count_scripts(text: str) -> Counter:
    """Letters of a text counted by script (LATIN, CYRILLIC, ...), by Unicode name."""
    letters = (ch for ch in text if ch.isalpha())
    return Counter(unicodedata.name(ch, "UNKNOWN").split()[0] for ch in letters)


def token_ids(lm: LM, prompts: list) -> list[list[int]]:
    """Prompts as id lists; texts are tokenised with the tokenizer's defaults."""
    if not len(prompts):
        raise ValueError("no prompts: expected at least one")
    rows = [
        lm.tokenizer(p)["input_ids"] if isinstance(p, str) else list(p) for p in prompts
    ]
    for number, row in enumerate(rows, 1):
        if not row:
            raise ValueError(f"prompt {number} is empty: give it at least one token")
    return rows


def equal_lengths(rows: list[list[int]], most: int = 64) -> list[list[int]]:
    """Positions of rows in groups of one length, `most` at most: unpadded batches."""
    by_length: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(i)
    return [g[k : k + most] for g in by_length.values() for k in range(0, len(g), most)]


def follows_instruction(lm: LM, new: list[int], gold: str) -> tuple[bool, bool]:
    """(ended, followed): does an answer end, and does it say gold before that?"""
    words = [i for i in new if i not in lm.eos_ids]
    text = lm.tokenizer.decode(words, skip_special_tokens=True).lstrip()
    ended = len(words) < len(new) or "\n" in text
    said = re.escape(gold.strip().rstrip(".").casefold())
    answer = text.split("\n")[0].casefold()
    return ended, ended and re.search(rf"(?<!\w){said}(?!\w)", answer) is not None


def is_correct(text: str, gold: str) -> bool:
    """Whether `text` begins with `gold` as whole words, capitals and end stop aside."""
    text, gold = (re.findall(r"\w+", x.lower()) for x in (text, gold))
    return bool(gold) and text[: len(gold)] == gold
