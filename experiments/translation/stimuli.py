"""What is read back: concept tokens a model has written, and their controls.

Concepts, write_concepts, chosen   concept tokens with their weights and texts
sources                            the mixture, its ceilings and its floors
wanted, readings, says             what counts as a content read back
scripts                            letters by script
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from experiments.floors import random_like
from experiments.prompts import SUITES, Item
from experiments.scoring import acceptable_answers, normalise_words
from helpers.decode import generate_concepts
from helpers.mixture import MixtureConfig, mix
from helpers.models import chat_prompt

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.models import LM

FLOORS = ("other prompt", "random vector", "left out")
LONGEST = 16  # vectors a content may have


@dataclass(frozen=True, eq=False)
class Concepts:
    """Concept tokens written after prompts, one entry a prompt, T_i vectors each.

    probs, indices (T_i,K), vectors (T_i,D) as the loop fed them, texts: the top tokens.
    """

    probs: list[Tensor]
    indices: list[Tensor]
    vectors: list[Tensor]
    texts: list[str]

    def columns(self) -> tuple[list, ...]:
        """probs, indices, vectors, texts."""
        return self.probs, self.indices, self.vectors, self.texts

    def pick(self, rows: list[int]) -> Concepts:
        """Some of the prompts, in this order."""
        return Concepts(*([column[i] for i in rows] for column in self.columns()))

    def first(self, count: int = 1) -> Concepts:
        """Only the first `count` vectors of each."""
        probs, indices, vectors, texts = self.columns()
        cut = [[x[:count] for x in column] for column in (probs, indices, vectors)]
        return Concepts(*cut, texts)


def write_concepts(
    lm: LM, prompts: list[str], counts: list[int], config: MixtureConfig | None = None
) -> Concepts:
    """Let the model write counts[i] concept tokens after each prompt (fewer at EOS)."""
    trace = generate_concepts(lm, prompts, max(counts), config, batch_size=256)
    probs, indices, vectors, texts = [], [], [], []
    for b, count in enumerate(counts):
        ids = trace.tokens[b][:count]
        while len(ids) > 1 and ids[-1] in lm.eos_ids:
            ids = ids[:-1]
        n = len(ids)
        probs.append(trace.probs[b, :n])
        indices.append(trace.indices[b, :n])
        vectors.append(trace.vectors[b, :n])
        texts.append(lm.tokenizer.decode(ids))
    return Concepts(probs, indices, vectors, texts)


def choose_stimuli(
    lm: LM, n: int, config: MixtureConfig | None = None
) -> tuple[list[Item], Concepts]:
    """n items whose answers the model has written as concept tokens, over the suites.

    Capitals, sums and nouns or cities after plain prompts; Spanish sentences, where
    there is a chat template, as the answer to "Repeat: ...". Items whose right answer
    was written come first: what is asked here is reading, given that writing worked.
    An answer has as many vectors as the right answer has tokens, a noun one.
    """
    chat = getattr(lm.tokenizer, "chat_template", None) is not None
    suites = ["capitals", "sums", "ambiguous"] + ["spanish"] * chat
    items, parts = [], []
    for left, suite in zip(range(len(suites), 0, -1), suites):
        pool = SUITES[suite][:: 2 if suite == "ambiguous" else 1]
        if suite == "spanish":
            prompts = [chat_prompt(lm, f"Repeat: {item.prompt}") for item in pool]
            concepts = write_concepts(lm, prompts, [LONGEST] * len(pool), config)
            right = [item.prompt for item in pool]
        else:
            counts = [_answer_length(lm, item) for item in pool]
            prompts = [item.prompt for item in pool]
            concepts = write_concepts(lm, prompts, counts, config)
            right = [item.gold for item in pool]
        order = sorted(
            (i for i, text in enumerate(concepts.texts) if normalise_words(text)),
            key=lambda i: (
                normalise_words(concepts.texts[i]) != normalise_words(right[i])
            ),
        )[: round((n - len(items)) / left)]
        items += [pool[i] for i in order]
        parts.append(concepts.pick(order))
    return items, Concepts(*map(_joined, zip(*(part.columns() for part in parts))))


def _joined(columns):
    return [entry for column in columns for entry in column]


def _answer_length(lm, item):
    """How many tokens the right answer has after its prompt; 1 where none is right."""

    def size(text):
        return len(lm.tokenizer(text)["input_ids"])

    if not item.gold:
        return 1
    more = size(f"{item.prompt} {item.gold}") - size(item.prompt)
    return min(max(more, 1), LONGEST)


def conditions(lm: LM, concepts: Concepts, seed: int = 0) -> dict[str, list]:
    """The concept tokens and their controls, by name, each one entry a prompt.

    mixture; ceilings: one-hot (top tokens as vectors), text (top tokens as text);
    floors: other prompt (another prompt's concept, other text), random vector (equal
    norm), left out (no vector at all); and runners-up replaced (same weights, the top
    token kept, other tokens behind it): a floor for the runners-up alone.
    """
    draw = torch.Generator().manual_seed(seed)
    sizes = [len(v) for v in concepts.vectors]
    flat = map(torch.cat, concepts.columns()[:3])
    others = replace_runners_up(lm, *flat, draw).split(sizes)
    return {
        "mixture": concepts.vectors,
        "one-hot": [lm.embed[i[:, 0]] for i in concepts.indices],
        "text": concepts.texts,
        "other prompt": [
            concepts.vectors[j] for j in mismatched_indices(concepts.texts, seed)
        ],
        "random vector": [random_like(v, draw) for v in concepts.vectors],
        "left out": [v[:0] for v in concepts.vectors],
        "runners-up replaced": list(others),
    }


def mismatched_indices(keys: list, seed: int = 0) -> list[int]:
    """For each entry, the index of a random other one with a different key."""
    draw = torch.Generator().manual_seed(seed)
    if len(set(keys)) < 2:
        raise ValueError(
            f"all {len(keys)} concepts say {keys[:1]}: the floor needs two that differ"
        )
    order = torch.randperm(len(keys), generator=draw).tolist()
    place = {b: n for n, b in enumerate(order)}
    around = [order[place[b] + 1 :] + order[: place[b]] for b in range(len(keys))]
    return [next(j for j in row if keys[j] != keys[b]) for b, row in enumerate(around)]


def replace_runners_up(
    lm: LM, probs: Tensor, indices: Tensor, vectors: Tensor, draw: torch.Generator
) -> Tensor:
    """Mixtures (N,K) with their weights, top tokens and norms, on random other tokens.

    None of the tokens that were kept is among the new ones. -> (N,D)
    """
    free = torch.rand(len(indices), lm.used, generator=draw).to(indices.device)
    free = free.scatter(-1, indices.clamp_max(lm.used - 1), -1.0)
    others = free.topk(min(indices.shape[-1], lm.used), dim=-1).indices
    new = torch.cat([indices[:, :1], others[:, : indices.shape[-1] - 1]], dim=-1)
    mixed = mix(probs[:, : new.shape[-1]], new, lm.embed)
    norms = vectors.norm(dim=-1, keepdim=True) / mixed.norm(dim=-1, keepdim=True)
    return mixed * norms


def reference_answers(lm: LM, items: list[Item], concepts: Concepts) -> list[dict]:
    """For each item the phrases that count as having been read back.

    content: what the top tokens say; gold: the right answer; second, further: other
    members of a single vector, of 5 % weight or more. Empty where there are none.
    """
    out = []
    for item, p, i, _, text in zip(items, *concepts.columns()):
        n = int((p[0] >= 0.05).sum()) if len(p) == 1 else 1
        other = [
            acceptable_answers(lm.tokenizer.decode([k])) for k in i[0, 1:n].tolist()
        ]
        out.append({
            "content": acceptable_answers(text), "gold": acceptable_answers(item.gold),
            "second": other[0] if other else (), "further": sum(other[1:], ()),
        })  # fmt: skip
    return out
