"""Read states out by a Patchscope: what does the model itself say one stands for? (M5)

    answers           what a model answers with states in the slot of a frame
    patchscope_rows   answers to mixtures, and to their two tokens alone, by layer
    said_table        shares that answer the top token, the second, or either
    patchscope_parts  the parts of M5

Ghandeharioun et al. 2024 (2401.06102): a hidden state takes the place of the slot's own
in the run of another prompt, here the frame of notebook 02 that repeats a word. It is
put in at the layer it comes from, or among the embeddings. At layer 0 both are what
notebook 02 does, a vector in the slot.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch

from experiments.middle_layers.cases import RELATED, Case
from experiments.middle_layers.reading import with_tokens
from experiments.middle_layers.states import depth, read_after
from experiments.prompts import FRAMES
from experiments.stats import Estimate, bootstrap, clustered, ratio, ratio_difference

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.models import LM

ROWS = 64  # a forward pass
READ = ("mixture", "top", "second")
SAME, EMBEDDINGS = "its own layer", "the embeddings"
LINES = {
    "mixture: either": ("mixture", ("top", "second")),
    "mixture: top token": ("mixture", ("top",)),
    "mixture: second token": ("mixture", ("second",)),
    "top token's state: second (floor)": ("top", ("second",)),
    "second token's state: second (ceiling)": ("second", ("second",)),
}


@torch.no_grad()
def answers(lm: LM, states: Tensor, layer: int) -> Tensor:
    """Put states (N,D) at a layer into the slot of the frame -> logits (N,V) behind it.

    At layer 0 they are vectors among the embeddings, before a model adds positions to
    them. At others, what the slot holds up to there is a "?", as in the paper.
    """
    head, tail = FRAMES["patchscopes"].text.split("{x}")
    prompt = lm.tokenizer(head.rstrip())["input_ids"]
    after, blank = (
        lm.tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (tail, "?")
    )
    found = []
    for part in states.split(ROWS):
        slot = part if layer == 0 else lm.embed[blank[-1:]].expand(len(part), -1)
        fed = with_tokens(lm, slot.to(lm.embed)[:, None], after)
        patch = (layer, part) if layer else None
        found.append(read_after(lm, prompt, fed, patch)[1])
    return torch.cat(found)


@torch.no_grad()
def patchscope_rows(
    lm: LM, cases: Sequence[Case], layers: Sequence[int], weight: float = 0.6
) -> pd.DataFrame:
    """Read out the states of related pairs: a row a pair, layer, and place put in at.

    Columns, for each of READ: its answer is the top token (mixture_top), the second
    (mixture_second), as 0 or 1, and the probability that it is the second (mixture_p).
    """
    pairs = [case for case in cases if case.kind == RELATED]
    vectors, states = [], []
    for case in pairs:
        e = lm.embed[torch.tensor([case.top, int(case.second)], device=lm.device)]
        fed = torch.cat([(weight * e[0] + (1 - weight) * e[1])[None], e])
        vectors.append(fed)
        states.append(read_after(lm, case.ids, fed[:, None])[0])
    held = torch.stack(states, 1).flatten(1, 2) if pairs else None  # (L+1,3N,D)
    rows = []
    for layer in layers:
        source = torch.cat(vectors) if layer == 0 else held[layer]
        for place, at in ((SAME, layer), (EMBEDDINGS, 0)):
            if at == depth(lm.model):
                continue  # behind the last block nothing reads the slot
            if layer or place == SAME:
                logits = answers(lm, source, at)
                p = logits.softmax(-1).cpu().view(len(pairs), len(READ), -1)
            for case, own in zip(pairs, p):
                row = {"prompt": case.prompt, "template": case.template}
                row |= {"layer": layer, "put in at": place}
                for name, said in zip(READ, own):
                    best, second = int(said.argmax()), int(case.second)
                    row[f"{name}_top"] = float(best == case.top)
                    row[f"{name}_second"] = float(best == second)
                    row[f"{name}_p"] = float(said[second])
                row["mixed"] = row["mixture_p"] - row["top_p"]
                row["whole"] = (1 - weight) * (row["second_p"] - row["top_p"])
                rows.append(row)
    return pd.DataFrame(rows)


def said_table(rows: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Estimate the shares of LINES: layer, put in at, answer, share, low, high, n."""
    found = []
    for (layer, place), part in rows.groupby(["layer", "put in at"], sort=False):
        for label, (read, words) in LINES.items():
            said = sum(part[f"{read}_{word}"] for word in words)
            e = clustered(bootstrap, part.template, said, seed=seed)
            row = {"layer": layer, "put in at": place, "answer": label}
            found.append(row | e.columns("share"))
    return pd.DataFrame(found)


def patchscope_parts(
    rows: pd.DataFrame, mid: int, seed: int = 0
) -> dict[str, Estimate]:
    """Estimate the parts of M5; mid: the middle layer."""
    own = rows[rows["put in at"] == SAME].set_index("prompt")
    at, base = (own[own.layer == layer] for layer in (mid, 0))
    ends = at.mixed, at.whole, base.mixed, base.whole
    groups = at.template
    alone = {"alone_middle": at, "alone_embedding": base}
    return {
        "more": clustered(ratio_difference, groups, *ends, seed=seed),
        "left_middle": clustered(ratio, groups, *ends[:2], seed=seed),
        "left_embedding": clustered(ratio, groups, *ends[2:], seed=seed),
    } | {
        name: clustered(bootstrap, groups, part.second_second, seed=seed)
        for name, part in alone.items()
    }
