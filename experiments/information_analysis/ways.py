"""Decode prompts in several ways at once (claim N6).

    decode_answers   each way's texts, the same number of forward calls for each

Prompts of one length make a batch, without padding. What all prompts begin with, such
as a chat template's system turn, is read once, and so is each prompt. Ways and samples
that have been fed the same so far share a row, and those that have ended have none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from experiments.scoring import MOST_LOGITS, MOST_ROWS, equal_length_batches, token_ids
from helpers.batching import CachedForward
from helpers.mixture import (
    MixtureConfig,
    apply_norm,
    logits_entropy,
    mix,
    norm_bounds,
    sharpened,
)

if TYPE_CHECKING:
    from helpers.models import LM

CONFIG = MixtureConfig()  # of the weights, in all ways
CHECK_EVERY = 3  # steps between two looks at which texts are settled


def decode_answers(
    lm: LM,
    prompts: list[str],
    steps: int,
    ways: Sequence[str],
    samples: int = 1,
    seed: int = 0,
    settled: Callable[[int, str], bool] | None = None,
) -> dict[str, list[list[str]]]:
    """Decode each prompt in each way -> way: one list of new texts, or `samples`.

    ways: discrete (greedy), continuous, gated (a mixture only where entropy is above
    the gate), sampled (from the weights that the others mix). settled: (prompt's place,
    text so far) -> whether to stop there, asked every CHECK_EVERY steps.
    """
    runs = [way for way in ways for _ in range(samples if way == "sampled" else 1)]
    rows = token_ids(lm, prompts)
    generator = torch.Generator().manual_seed(seed)
    size = max(1, min(MOST_ROWS, MOST_LOGITS // (len(lm.embed) * len(runs))))
    found: list[list[list[int]]] = [[[] for _ in prompts] for _ in runs]
    for batch in equal_length_batches(rows, size):
        ids = torch.tensor([rows[i] for i in batch], device=lm.device)

        def over(b, tokens, batch=batch):
            text = lm.tokenizer.decode(tokens, skip_special_tokens=True)
            return settled is not None and settled(batch[b], text)

        chains = _decode_batch(lm, ids, steps, runs, generator, over)
        for run, chosen in zip(found, chains):
            for i, tokens in zip(batch, chosen):
                run[i] = tokens
    texts: dict[str, list[list[str]]] = {way: [] for way in ways}
    for way, run in zip(runs, found):
        said = lm.tokenizer.batch_decode(run, skip_special_tokens=True)
        texts[way].append(said)
    return texts


@torch.no_grad()
def _decode_batch(
    lm: LM,
    ids: Tensor,
    steps: int,
    runs: list[str],
    generator: torch.Generator,
    over: Callable[[int, list[int]], bool],
) -> list[list[list[int]]]:
    """Decode prompts (B,T) -> run, prompt: tokens.

    A row holds what some runs of a prompt have in common: what they were fed so far.
    """
    count, vocabulary = len(ids), len(lm.embed)
    bounds = lm.remember(("bounds", CONFIG.norm), lambda: _bounds(lm))
    mixes = torch.tensor([way == "continuous" for way in runs])[:, None]
    gated = torch.tensor([way == "gated" for way in runs])[:, None]
    drawn = torch.tensor([way == "sampled" for way in runs])[:, None]
    embeds = lm.embed[ids]
    forward = CachedForward(lm.model, embeds, None, steps)
    logits = forward(embeds)
    row = torch.arange(count).expand(len(runs), count)  # of the logits, by run, prompt
    alive = torch.ones(row.shape, dtype=torch.bool)
    chains: list[list[list[int]]] = [[[] for _ in range(count)] for _ in runs]
    for step in range(steps):
        probs, indices = sharpened(logits, CONFIG)
        unsure = (logits_entropy(logits) > CONFIG.gate_entropy).cpu()
        sums, kept = probs.cumsum(-1).cpu(), indices.cpu()
        u = torch.rand((*row.shape, 1), generator=generator)
        place = torch.searchsorted(sums[row], u * sums[row][..., -1:], right=True)
        place = torch.where(drawn, place[..., 0].clamp_max(sums.shape[-1] - 1), 0)
        token = kept[row, place]
        mixed = mixes | (gated & unsure[row])
        for r, b in alive.nonzero().tolist():
            chains[r][b].append(int(token[r, b]))
        alive &= ~torch.isin(token, torch.tensor(lm.eos_ids, dtype=token.dtype))
        if step % CHECK_EVERY == CHECK_EVERY - 1:
            for r, b in alive.nonzero().tolist():
                alive[r, b] = not over(b, chains[r][b])
        if step == steps - 1 or not alive.any():
            break
        key = row * (vocabulary + 1) + torch.where(mixed, vocabulary, token)
        unique, inverse = key[alive].unique(return_inverse=True)
        parent, fed = unique // (vocabulary + 1), unique % (vocabulary + 1)
        row = torch.zeros_like(row).masked_scatter(alive, inverse)
        parent, fed = parent.to(lm.device), fed.to(lm.device)
        vectors = lm.embed[fed.clamp_max(vocabulary - 1)]
        concept = mix(probs[parent], indices[parent], lm.embed)
        weights = probs[parent], indices[parent]
        concept = apply_norm(concept, *weights, bounds, CONFIG.norm)
        vectors = torch.where((fed == vocabulary)[:, None], concept, vectors)
        forward.cache.batch_select_indices(parent)
        logits = forward(vectors[:, None])
    return chains


def _bounds(lm: LM):
    return norm_bounds(lm.embed, CONFIG.norm, lm.used)
