"""Writing prompts and greedy text: what the chains of notebook 01 are held against.

    suite              the write-up's two prompts and n others
    identity_rows, identity_parts    G1: one-hot mixtures against greedy
    predictions        what a model expects at each step, in one pass without the loop
    exactly            a counted number as an Estimate
"""

from __future__ import annotations

from itertools import chain, zip_longest
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from . import rules
from .decode import generate_concepts
from .forward import prompt_embeds
from .identity import equal_lengths, token_ids
from .mixture import MixtureConfig
from .prompts import SUITES
from .slicing import generated
from .stats import Estimate

if TYPE_CHECKING:
    from torch import Tensor

    from .models import LM

BATCH = 2**25  # numbers in one batch of logits, at most


def exactly(value: float, n: int) -> Estimate:
    """A number that is counted, not estimated: its interval is itself."""
    return Estimate(float(value), float(value), float(value), n)


def suite(n: int) -> list[str]:
    """The two prompts of Table 4.1, then `n` more: every second one is ambiguous, the
    others are capitals and sums in turn. ValueError where n is more than there are."""
    first = [item.prompt for item in SUITES["writeup"]]
    pools = ("ambiguous", "capitals", "ambiguous", "sums")
    taken = {name: iter(_spread(SUITES[name])) for name in set(pools)}
    turns = zip_longest(*(taken[name] for name in pools))
    others = [item.prompt for item in chain.from_iterable(turns) if item]
    others = [prompt for prompt in others if prompt not in first]
    if not 1 <= n <= len(others):
        raise ValueError(f"n={n}: expected 1 to {len(others)} prompts beside the two")
    return first + others[:n]


def _spread(items):
    """The items in a fixed order that does not follow the suite's."""
    return [items[i] for i in np.random.default_rng(0).permutation(len(items))]


DEGENERATE = {  # part -> settings and rule under which a mixture is one token
    "mismatch_onehot": (MixtureConfig(), rules.one_hot),
    "mismatch_k1": (MixtureConfig(top_k=1), rules.sharpened),
    "mismatch_cold": (MixtureConfig(temperature=1e-30), rules.sharpened),
    "mismatch_sharp": (MixtureConfig(alpha=1e30), rules.sharpened),
}


def identity_rows(lm: LM, prompts: list[str], steps: int = 20) -> pd.DataFrame:
    """Whether each degenerate mixture writes what greedy decoding writes, to the id.

    Prompts of one length go together, for both: another batch shape rounds differently.
    """
    rows = []
    ids = token_ids(lm, prompts)
    for at in equal_lengths(ids):
        group = [ids[i] for i in at]
        found = generated(lm, group, "ids", steps)
        want = [out[len(group[0]) :] for out in found]
        for part, (config, rule) in DEGENERATE.items():
            trace = generate_concepts(
                lm, group, steps, config, weight_rule=rule, batch_size=len(group)
            )
            same = [a == b for a, b in zip(trace.tokens, want)]
            rows += [{"part": part, "equal": equal} for equal in same]
    return pd.DataFrame(rows)


def identity_parts(rows: pd.DataFrame) -> dict[str, Estimate]:
    """Number of prompts that differ, by part."""
    by_part = rows.groupby("part", sort=False).equal
    return {part: exactly((~equal).sum(), len(equal)) for part, equal in by_part}


# What a model expects, in one pass


@torch.no_grad()
def predictions(lm: LM, prompts: list[str], vectors: Tensor, targets=None) -> tuple:
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


def as_targets(chains: list[list[int]], steps: int) -> tuple[Tensor, Tensor]:
    """Chains as ids (B,T), zeros past their lengths (B,)."""
    lengths = torch.tensor([len(ids) for ids in chains])
    rows = [list(ids) + [0] * (steps - len(ids)) for ids in chains]
    return torch.tensor(rows), lengths
