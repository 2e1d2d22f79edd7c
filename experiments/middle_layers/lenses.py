"""Tuned lenses: what a model's layers would predict if it stopped there.

    Lens               an affine map of one layer's states, then the model's own head
    fit_lenses         fit them to the model's own predictions on some texts
    lens_kinds         the lenses of notebook 07, controls among them
    logit_lens         the map that changes nothing (nostalgebraist 2020)
    lens_table         how well each lens predicts what the model predicts, by layer

Belrose et al. 2023 (2303.08112): lens(h) = head(norm(h + A h + b)), A and b so that
KL(model's prediction || lens) is smallest. Here A and b begin at the least-squares map
to the last layer's states (Din et al. 2023, 2303.09435), which a few steps improve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch

from experiments.middle_layers.states import depth, read_texts, to_logits

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.models import LM

MOST_TOKENS = 4096  # of a vocabulary, that the fit compares predictions over
RIDGE = 1e-2  # of the states' mean square


@dataclass(frozen=True, eq=False)
class Lenses:
    """Affine maps of the states of some layers: weight (n,D,D), bias (n,D)."""

    layers: tuple[int, ...]
    weight: Tensor
    bias: Tensor

    def read(self, lm: LM, layer: int, states: Tensor) -> Tensor:
        """Read states (N,D) of a layer -> probabilities (N,V)."""
        return to_logits(lm, self.moved(layer, states)).softmax(-1)

    def moved(self, layer: int, states: Tensor) -> Tensor:
        """Map states (N,D) of a layer to where the head takes them. The last: as is."""
        if layer not in self.layers:
            return states
        i = self.layers.index(layer)
        return states + states @ self.weight[i].T + self.bias[i]


def logit_lens() -> Lenses:
    """Make the lens that changes nothing, at every layer."""
    return Lenses((), torch.empty(0), torch.empty(0))


def fit_lenses(
    lm: LM,
    read: Tensor,
    layers: Sequence[int],
    steps: int = 200,
    batch: int = 256,
    rate: float = 1e-3,
    shuffle: bool = False,
    seed: int = 0,
) -> Lenses:
    """Fit a lens to each of `layers`, on states read (len(layers)+1,N,D) of texts.

    The last of the states are those of the last layer, which needs no lens.
    The KL is over the tokens that the model finds likeliest somewhere in the texts, at
    most MOST_TOKENS. shuffle: deal the states of each layer out to other positions, so
    that a lens has nothing to go by: a control.
    """
    states, final = read[:-1], read[-1]
    draw = torch.Generator().manual_seed(seed)
    if shuffle:
        states = states[:, torch.randperm(states.shape[1], generator=draw)]
    tokens = likely_tokens(lm, final)
    weight, bias = least_squares(states, final)
    weight.requires_grad_(), bias.requires_grad_()
    optimiser = torch.optim.Adam([weight, bias], lr=rate)
    slower = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.05, steps)
    for _ in range(steps):
        at = torch.randint(len(final), (batch,), generator=draw)
        x = states[:, at]
        moved = x + x @ weight.mT + bias[:, None]
        said = to_logits(lm, moved, tokens).log_softmax(-1)
        target = to_logits(lm, final[at], tokens).log_softmax(-1)
        loss = (target.exp() * (target - said)).sum(-1).mean(-1).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        slower.step()
    return Lenses(tuple(layers), weight.detach(), bias.detach())


def lens_kinds(
    lm: LM, seen: dict[int, Tensor], middle: int, **how
) -> dict[str, Lenses]:
    """Fit lenses to states seen (N,D) by layer, up to the last: tuned, and controls.

    tuned: of every layer; logit: no fit; shuffled: of the middle layer, its states
    dealt out at random. how: as in `fit_lenses`.
    """
    *layers, top = seen
    both = torch.stack([seen[middle], seen[top]])
    return {
        "tuned": fit_lenses(lm, torch.stack([*seen.values()]), layers, **how),
        "logit": logit_lens(),
        "shuffled": fit_lenses(lm, both, [middle], shuffle=True, **how),
    }


@torch.no_grad()
def likely_tokens(lm: LM, final: Tensor, each: int = 16) -> Tensor:
    """List the tokens that are likeliest after one of the last states (N,D) or more."""
    size = lm.embed.shape[0]
    if size <= MOST_TOKENS:
        return torch.arange(size)
    counts = torch.zeros(size)
    for part in final.split(512):
        best = to_logits(lm, part).topk(each).indices.flatten().cpu()
        counts += best.bincount(minlength=size)
    return counts.topk(min(MOST_TOKENS, int((counts > 0).sum()))).indices.sort().values


def least_squares(states: Tensor, final: Tensor) -> tuple[Tensor, Tensor]:
    """Fit final = h + A h + b by ridge regression -> A (n,D,D), b (n,D)."""
    weights, biases = [], []
    for x in states.double():
        centre, target = x.mean(0), (final - x).double()
        x = x - centre
        square = x.T @ x
        square.diagonal().add_(RIDGE * square.diagonal().mean())
        a = torch.linalg.solve(square, x.T @ (target - target.mean(0))).T
        weights.append(a.float())
        biases.append((target.mean(0) - a @ centre).float())
    return torch.stack(weights), torch.stack(biases)


@torch.no_grad()
def lens_table(
    lm: LM, lenses: dict[str, Lenses], texts: list[list[int]], layers: Sequence[int]
) -> pd.DataFrame:
    """Measure KL(model's prediction || lens) in bits on texts: lens, layer, kl_bits."""
    top = depth(lm.model)
    *states, final = read_texts(lm, texts, [*layers, top])
    truth = to_logits(lm, final).log_softmax(-1)
    rows = []
    for name, lens in lenses.items():
        for layer, x in zip(layers, states):
            if layer == top or (lens.layers and layer not in lens.layers):
                continue
            said = to_logits(lm, lens.moved(layer, x)).log_softmax(-1)
            kl = (truth.exp() * (truth - said)).sum(-1).mean() / math.log(2)
            rows.append((name, layer, float(kl)))
    return pd.DataFrame(rows, columns=["lens", "layer", "kl_bits"])
