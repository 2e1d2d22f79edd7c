"""The concept tokens examined, and what the model expects after any vector.

    Opening              a prompt that can be completed, its template and its family
    completion_prompts   every one of them
    sample_prompts       some of them, drawn at random
    Context              a step of a chain: what was read before it, and its mixture
    trace_contexts       the steps of a ConceptTrace as contexts
    next_probs           P(. | prefix, vector) for many vectors after one prefix
    normalise            weights as float64 that sum to one

The model runs where and as it was loaded; its probabilities come back in float64 on
the CPU.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from experiments.prompts import CHORES, FRAMES, JOURNEYS, Item, templates
from helpers.mixture import mix

if TYPE_CHECKING:
    from helpers.decode import ConceptTrace
    from helpers.models import LM

Suites = Mapping[str, tuple[Item, ...]]  # what a set is asked: prompts.suites
OPEN = ("ambiguous", "capitals", "sums")  # suites whose prompts can be completed
ALIKE = {f"The _ {chore}": "chores" for chore in CHORES}
ALIKE |= {f"_ {journey}": "journeys" for journey in JOURNEYS}


class Opening(NamedTuple):
    """A prompt to complete.

    template: its wording with the varying word taken out. family: the prompts that ask
    for the same kind of thing, which is how much was drawn independently. Capitals,
    sums and meanings are one family each. Of the mini world's open templates, four are
    chores and two are journeys with the same words in all of them. A natural template
    is a family of its own: each was written apart, about a thing of its own, and only
    its up to five prompts are near copies.
    """

    prompt: str
    template: str
    family: str


def completion_prompts(asked: Suites) -> list[Opening]:
    """List the openings that a base model can complete, family by family."""
    openings = []
    for suite in OPEN:
        for item in asked[suite]:
            family = ALIKE.get(item.template, item.template)
            family = family if suite == "ambiguous" else suite
            openings.append(Opening(item.prompt, item.template, family))
    frame = FRAMES["completion"].text
    template = frame.format(x="_")
    prompts = [frame.format(x=item.prompt) for item in asked["meanings"]]
    return openings + [Opening(prompt, template, "meanings") for prompt in prompts]


def sample_prompts(asked: Suites, n: int, seed: int = 0) -> list[str]:
    """Draw `n` ambiguous openings, capitals and sums (all where there are fewer)."""
    pool = [item.prompt for suite in OPEN for item in asked[suite]]
    return random.Random(seed).sample(pool, min(n, len(pool)))


@dataclass(frozen=True, eq=False)
class Context:
    """A step of a trace: what was read before it, and the mixture formed there."""

    prompt: int  # which prompt, from 0
    step: int  # which step of it, from 0
    prefix: Tensor  # (T,D) embeddings already read
    probs: Tensor  # (K,) weights, sorted
    indices: Tensor  # (K,) their tokens
    concept: Tensor  # (D,) sum_i p_i E[i]
    entropy: float = 0.0  # nats, of the model's full softmax
    template: str = ""  # of the prompt; the prompt itself where it is of no suite


def trace_contexts(lm: LM, prompts: list[str], trace: ConceptTrace) -> list[Context]:
    """List the steps of `trace` (B,T) as contexts, up to the length of each prompt.

    The concept is the plain mixture sum_i p_i E[i], before any norm clipping.
    """
    contexts = []
    for b, prompt in enumerate(prompts):
        ids = lm.tokenizer(prompt)["input_ids"]
        for t in range(int(trace.lengths[b])):
            prefix = torch.cat([lm.embed[ids], trace.vectors[b, :t]])
            probs, indices = trace.probs[b, t], trace.indices[b, t]
            concept = mix(probs, indices, lm.embed)
            more = float(trace.entropy[b, t]), templates().get(prompt, prompt)
            contexts.append(Context(b, t, prefix, probs, indices, concept, *more))
    return contexts


@torch.no_grad()
def next_probs(lm: LM, prefix: Tensor, vectors: Tensor, batch: int = 512) -> Tensor:
    """Compute P(. | prefix, v), (N,V), for vectors (N,D) after a prefix (T,D).

    The prefix is read once; its cache is shared by all vectors.
    """
    call = {"use_cache": True, "logits_to_keep": 1}
    read = lm.model(inputs_embeds=prefix[None], **call).past_key_values
    probs = []
    parts = vectors.to(prefix).split(batch)
    for n, part in enumerate(parts):
        cache = read if n == len(parts) - 1 else copy.deepcopy(read)
        cache.batch_repeat_interleave(len(part))
        out = lm.model(inputs_embeds=part[:, None], past_key_values=cache, **call)
        probs.append(out.logits[:, -1].cpu().double().softmax(-1))
    return torch.cat(probs)


def normalise(weights: Tensor) -> Tensor:
    """Scale weights to sum to one, in float64 on the CPU."""
    weights = weights.double().cpu()
    return weights / weights.sum()
