"""Concept tokens a model has written, their controls, and what counts as their content.

    Concept, write_concepts   concept tokens written after a prompt, with their weights
    choose_stimuli            items whose answers a model has written as concept tokens
    conditions                the concept tokens beside their ceilings and floors
    untrained_model           a floor: the same class of model, random weights
    mismatched_indices        for each entry another one that differs
    reference_answers         the phrases that count as a content read back

Contents are the top tokens' texts; every draw is seeded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from transformers import AutoModelForCausalLM

from experiments.floors import random_like, replace_runners_up
from experiments.prompts import Item
from experiments.scoring import acceptable_answers, normalise_words
from helpers.decode import generate_concepts
from helpers.mixture import MixtureConfig
from helpers.models import LM, chat_prompt

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

    Suites = Mapping[str, tuple[Item, ...]]  # prompts.suites

FLOORS = ("other prompt", "random vector", "left out", "untrained model")
MIXED = 0.9  # a concept token with a heavier member is hardly a mixture
MOST_VECTORS = 16  # of one content
BATCH = 256  # prompts a forward pass


@dataclass(frozen=True, eq=False)
class Concept:
    """Concept tokens written after one prompt, T of them.

    probs, indices (T,K) and vectors (T,D) as the loop fed them; text: the top tokens.
    """

    probs: Tensor
    indices: Tensor
    vectors: Tensor
    text: str


def write_concepts(
    lm: LM, prompts: list[str], counts: list[int], config: MixtureConfig | None = None
) -> list[Concept]:
    """Write counts[i] concept tokens after each prompt; fewer where an answer ends."""
    trace = generate_concepts(lm, prompts, max(counts), config, batch_size=BATCH)
    concepts = []
    for b, count in enumerate(counts):
        ids = trace.tokens[b][:count]
        while len(ids) > 1 and ids[-1] in lm.eos_ids:
            ids = ids[:-1]
        fed = (x[b, : len(ids)] for x in (trace.probs, trace.indices, trace.vectors))
        concepts.append(Concept(*fed, lm.tokenizer.decode(ids)))
    return concepts


def has_chat(lm: LM) -> bool:
    """Whether the model's tokenizer has a chat template."""
    return getattr(lm.tokenizer, "chat_template", None) is not None


def choose_stimuli(
    lm: LM, asked: Suites, n: int, config: MixtureConfig | None = None
) -> tuple[list[Item], list[Concept]]:
    """Choose n items over the suites whose answers the model writes as concept tokens.

    Capitals, sums and nouns or cities after plain prompts; Spanish sentences, where
    there is a chat template, as the answer to "Repeat: ...". Only mixtures: every
    vector's heaviest member weighs less than MIXED. Items whose right answer was
    written come first: what is asked here is reading, given that writing worked. An
    answer has as many vectors as the right answer has tokens, a noun one.
    """
    suites = ["spanish"] * has_chat(lm) + ["capitals", "sums", "ambiguous"]
    items, concepts = [], []
    for left, suite in zip(range(len(suites), 0, -1), suites):
        pool = asked[suite]
        prompts, right = [i.prompt for i in pool], [i.gold for i in pool]
        counts = [_answer_length(lm, item) for item in pool]
        if suite == "spanish":
            prompts, right = [chat_prompt(lm, f"Repeat: {p}") for p in prompts], prompts
            counts = [MOST_VECTORS] * len(pool)
        written = write_concepts(lm, prompts, counts, config)
        said = [normalise_words(concept.text) for concept in written]
        wrong = [words != normalise_words(gold) for words, gold in zip(said, right)]
        mixed = [bool((concept.probs[:, 0] < MIXED).all()) for concept in written]
        order = sorted(
            (i for i, words in enumerate(said) if words and mixed[i]),
            key=wrong.__getitem__,
        )
        order = order[: round((n - len(items)) / left)]
        items += [pool[i] for i in order]
        concepts += [written[i] for i in order]
    return items, concepts


def _answer_length(lm: LM, item: Item) -> int:
    """Tokens of the right answer after its prompt; 1 where no answer is right."""

    def size(text: str) -> int:
        return len(lm.tokenizer(text)["input_ids"])

    if not item.gold:
        return 1
    more = size(f"{item.prompt} {item.gold}") - size(item.prompt)
    return min(max(more, 1), MOST_VECTORS)


def conditions(lm: LM, concepts: list[Concept], seed: int = 0) -> dict[str, list]:
    """Set the concept tokens beside their controls: name -> one entry a prompt.

    mixture; ceilings: top token (its own embedding), text (top tokens as text);
    floors: other prompt (another prompt's concept, other text), random vector (equal
    norm), left out (no vector at all); and runners-up replaced (same weights, the top
    token kept, other tokens behind it): a floor for the runners-up alone.
    """
    draw = torch.Generator().manual_seed(seed)
    mixtures, texts = [c.vectors for c in concepts], [c.text for c in concepts]
    fed = ((c.probs, c.indices, c.vectors) for c in concepts)
    replaced = replace_runners_up(lm, *map(torch.cat, zip(*fed)), draw)
    return {
        "mixture": mixtures,
        "top token": [lm.embed[c.indices[:, 0]] for c in concepts],
        "text": texts,
        "other prompt": [mixtures[j] for j in mismatched_indices(texts, seed)],
        "random vector": [random_like(v, draw) for v in mixtures],
        "left out": [v[:0] for v in mixtures],
        "runners-up replaced": list(replaced.split([len(v) for v in mixtures])),
    }


def untrained_model(lm: LM, seed: int = 0) -> LM:
    """Build a model of the same class and size with random weights, seeded."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(lm.model.config)
    model = model.to(lm.device, lm.dtype).eval()
    return LM(model, lm.tokenizer, f"{lm.name}, untrained")


def mismatched_indices(keys: list, seed: int = 0) -> list[int]:
    """Draw for each entry the index of another one with a different key.

    ValueError where all keys are the same.
    """
    draw = torch.Generator().manual_seed(seed)
    if len(set(keys)) < 2:
        raise ValueError(
            f"all {len(keys)} concepts say {keys[:1]}: the floor needs two that differ"
        )
    order = torch.randperm(len(keys), generator=draw).tolist()
    place = {b: n for n, b in enumerate(order)}
    around = [order[place[b] + 1 :] + order[: place[b]] for b in range(len(keys))]
    return [next(j for j in row if keys[j] != keys[b]) for b, row in enumerate(around)]


def reference_answers(
    lm: LM, asked: Suites, items: list[Item], concepts: list[Concept]
) -> list[dict[str, tuple[str, ...]]]:
    """List for each item the phrases that count as having been read back.

    content: what the top tokens say; gold: the right answer; second, further: other
    members of a single vector, of 5 % weight or more. Empty where there are none.
    """
    answers = []
    for item, c in zip(items, concepts):
        n = int((c.probs[0] >= 0.05).sum()) if len(c.probs) == 1 else 1
        tokens = [lm.tokenizer.decode([k]) for k in c.indices[0, 1:n].tolist()]
        other = [acceptable_answers(token, asked) for token in tokens]
        second, further = (other[0], sum(other[1:], ())) if other else ((), ())
        answers.append(
            {"content": acceptable_answers(c.text, asked), "gold": item.accepted}
            | {"second": second, "further": further}
        )
    return answers
