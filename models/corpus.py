"""The corpus the mini models are trained on, and its exact next-token distribution.

A document is written by a small program that makes weighted choices (`pick`) and writes
words (`say`). Run with a chooser that draws, the program samples a document; run with
`_Walk`, which tries every choice that agrees with a prompt, the same program gives the
exact probability of every continuation. So sampler and distribution cannot disagree.
"""

import random
import re
from functools import lru_cache

import torch

from models.chat import chat_pair, chat_text, sentence_pair
from models.english import paragraph, words

# Share of each kind of document, by model. Paragraphs and word lists keep one ratio in
# both, so that one distribution over plain English continuations is true of both.
KINDS = {
    "mini-gpt2": {"paragraph": 0.92, "words": 0.08},
    "mini-qwen2": {"paragraph": 0.322, "words": 0.028, "parrafo": 0.05, "chat": 0.60},
}
PLAIN = (paragraph, words), (0.92, 0.08)


class _Sample:
    """A chooser that draws."""

    def __init__(self, rng):
        self.rng, self.text = rng, ""

    def pick(self, options, weights=None):
        if weights is None:
            return options[self.rng.randrange(len(options))]
        return self.rng.choices(options, weights)[0]

    def inside(self):
        """Whether a sentence has begun."""
        return bool(self.text) and not self.text.endswith(".")

    def say(self, piece):
        if piece:
            glue = "" if not self.text or piece[0] in ".," else " "
            self.text += glue + piece


def sample_document(rng: random.Random, model: str = "mini-gpt2") -> str:
    """One training document of a model's corpus, as text without its end marker."""
    kinds = KINDS[model]
    kind = rng.choices(tuple(kinds), tuple(kinds.values()))[0]
    if kind == "chat":
        return chat_text(*chat_pair(rng), system=rng.random() < 0.7)
    if kind == "parrafo":
        return " ".join(sentence_pair(rng)[1] for _ in range(rng.randint(6, 20)))
    chooser = _Sample(rng)
    (paragraph if kind == "paragraph" else words)(chooser)
    return chooser.text


class _Stop(Exception):
    """The walk need not go on: it has left the prompt, or said enough beyond it."""


# A continuation is long enough once it holds a whole word and what follows that word.
_ENOUGH = re.compile(r"\s*(?:[^\W\d]+|\d+|[^\w\s]+)\W")


class _Walk(_Sample):
    """A chooser that replays one path of choices against a prompt."""

    def __init__(self, prompt, path):
        self.prompt, self.path, self.text = prompt, path, ""
        self.widths, self.probability, self.done = [], 1.0, False

    def pick(self, options, weights=None):
        depth = len(self.widths)
        if depth == len(self.path):
            self.path.append(0)
        self.widths.append(len(options))
        i = self.path[depth]
        self.probability *= weights[i] / sum(weights) if weights else 1 / len(options)
        return options[i]

    def say(self, piece):
        super().say(piece)
        n = min(len(self.text), len(self.prompt))
        if self.text[:n] != self.prompt[:n]:
            raise _Stop
        if _ENOUGH.match(self.text[len(self.prompt) :]):
            self.done = True
            raise _Stop


def _plain(c):
    c.pick(*PLAIN)(c)


@lru_cache(maxsize=4096)
def true_continuations(prompt: str) -> dict[str, float]:
    """Continuations of a plain prompt (a word and a little more) → exact probability.

    Empty where the corpus never says the prompt; at a document's end the text is "".
    """
    found, path = {}, []
    while True:
        walk = _Walk(prompt, path)
        try:
            _plain(walk)
            walk.done = walk.text.startswith(prompt)
        except _Stop:
            pass
        if walk.done:
            rest = walk.text[len(prompt) :]
            found[rest] = found.get(rest, 0.0) + walk.probability
        del path[len(walk.widths) :]
        while path and path[-1] + 1 == walk.widths[len(path) - 1]:
            path.pop()
        if not path:
            break
        path[-1] += 1
    total = sum(found.values())
    return {k: v / total for k, v in found.items()} if total else {}


def covers(prompt: str) -> bool:
    """Whether the corpus can say this prompt, so that its continuation is known."""
    return bool(true_continuations(prompt))


def true_next(tokenizer, prompt: str) -> torch.Tensor:
    """Exact next-token distribution (V,) of the corpus after a plain prompt.

    Continuations that the tokenizer would join to the prompt's last token count for
    nothing, since the prompt's ids then differ. Raises ValueError where the corpus
    never says the prompt.
    """
    ids = tokenizer(prompt)["input_ids"]
    out = torch.zeros(len(tokenizer), dtype=torch.float64)
    known = true_continuations(prompt)
    rows = tokenizer([prompt + text for text in known])["input_ids"] if known else []
    for full, probability in zip(rows, known.values(), strict=True):
        full = [*full, tokenizer.eos_token_id]
        if full[: len(ids)] == ids:
            out[full[len(ids)]] += probability
    if not out.sum():
        raise ValueError(
            f"{prompt!r} is no prefix of a document of the mini corpus, so its true "
            "distribution is unknown; use a prompt for which covers(prompt) is true"
        )
    return (out / out.sum()).float()
