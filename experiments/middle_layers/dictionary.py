"""A small sparse autoencoder of a layer's states, and the features of mixtures (M3).

    fit_dictionary      train a BatchTopK autoencoder (Bussmann et al. 2024, 2412.06410)
    quality             the usual measures, on other texts
    feature_rows        one row a case: which features its mixture shares with whom
    feature_parts       the parts of M3

x ~ b + f D, f = (x - b) E + e where that is above a threshold, else 0. In training the
`k` largest times the batch size of all activations are kept; the threshold is the mean
of the smallest of them, so that afterwards a state may have as many as it needs: a
mixture has room for the features of both its members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import pandas as pd
import torch

from experiments.metrics import js_bits
from experiments.middle_layers.cases import OWN, Case
from experiments.middle_layers.reading import APART, HALF
from experiments.middle_layers.states import hooked, read_after, read_texts
from experiments.stats import Estimate, bootstrap, clustered, ratio

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.models import LM


@dataclass(frozen=True, eq=False)
class Dictionary:
    """encoder (D,F), offset (F,), decoder (F,D) of unit rows, centre (D,), scalars."""

    encoder: Tensor
    offset: Tensor
    decoder: Tensor
    centre: Tensor
    scale: Tensor  # of the states, which are brought to a mean square of one
    threshold: Tensor

    def features(self, states: Tensor, weight: float = 1.0) -> Tensor:
        """Encode states (N,D) -> activations (N,F), none below weight * threshold."""
        f = _before(self, (states - self.centre) / self.scale)
        return f * (f > weight * self.threshold)

    def rebuilt(self, states: Tensor) -> Tensor:
        """Decode the features of states (N,D)."""
        return self.features(states) @ self.decoder * self.scale + self.centre


def _before(own: Dictionary, x: Tensor) -> Tensor:
    return (x @ own.encoder + own.offset).relu()


def fit_dictionary(
    states: Tensor,
    size: int,
    k: int = 16,
    steps: int = 600,
    batch: int = 512,
    rate: float = 2e-3,
    seed: int = 0,
) -> Dictionary:
    """Train `size` features, k active on average, on a layer's states (N,D).

    Features that were not active for a while get another chance: a second decoding, of
    what is left, by those alone (Gao et al. 2024, 2406.04093).
    """
    draw = torch.Generator().manual_seed(seed)
    centre = states.mean(0)
    scale = (states - centre).square().mean().sqrt()
    decoder = torch.randn(size, states.shape[1], generator=draw).to(states)
    decoder = decoder / decoder.norm(dim=-1, keepdim=True)
    own = Dictionary(
        decoder.T.clone().requires_grad_(), states.new_zeros(size).requires_grad_(),
        decoder.requires_grad_(), centre, scale, states.new_zeros(()),
    )  # fmt: skip
    optimiser = torch.optim.Adam([own.encoder, own.offset, own.decoder], lr=rate)
    slower = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, steps)
    idle, least = torch.zeros(size), []
    for step in range(steps):
        at = torch.randint(len(states), (batch,), generator=draw)
        x = (states[at] - centre) / scale
        f = _before(own, x)
        smallest = f.flatten().topk(k * batch).values[-1].detach()
        kept = f * (f >= smallest)
        rest = x - kept @ own.decoder
        loss = rest.square().mean()
        idle = torch.where((kept > 0).any(0).cpu(), 0, idle + 1)
        if (dead := idle > 50).sum() > k:
            weak = f[:, dead].topk(k, -1)
            again = torch.zeros_like(f[:, dead]).scatter(-1, weak.indices, weak.values)
            miss = rest.detach() - again @ own.decoder[dead]
            loss = loss + miss.square().mean() / 32
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        slower.step()
        with torch.no_grad():
            own.decoder.div_(own.decoder.norm(dim=-1, keepdim=True))
        if step >= steps // 2:
            least.append(smallest)
    values = [getattr(own, f.name).detach() for f in fields(own)]
    return Dictionary(*values[:-1], torch.stack(least).mean())


@torch.no_grad()
def quality(
    lm: LM, own: Dictionary, texts: list[list[int]], layer: int, seed: int = 0
) -> dict[str, Estimate]:
    """Measure an autoencoder on texts it was not trained on.

    explained: share of the variance of states. active: features a state (L0). dead:
    share of features active nowhere. ce_recovered: of what the cross-entropy loses when
    every state is replaced by their mean, how much the rebuilt states win back.
    """
    states = read_texts(lm, texts, [layer])[0]
    f = own.features(states)
    rest = (states - own.rebuilt(states)).square().sum(-1)
    spread = (states - states.mean(0)).square().sum(-1)
    ids = torch.tensor(texts, device=lm.device)
    mean = states.mean(0)

    def loss(change=None) -> float:
        hooks = {layer: change} if change else {}
        with hooked(lm.model, hooks):
            logits = lm.model(input_ids=ids, use_cache=False).logits[:, 1:-1].float()
        return float(torch.nn.functional.cross_entropy(logits.mT, ids[:, 2:]))

    def but_first(new):
        return lambda x: torch.cat([x[:, :1], new(x[:, 1:]).to(x)], 1)

    whole = loss()
    none = loss(but_first(lambda x: mean.expand_as(x)))
    rebuilt = loss(but_first(lambda x: own.rebuilt(x.float())))
    n = len(states)
    return {
        "explained": Estimate.exact(1 - rest.sum() / spread.sum(), n),
        "active": bootstrap((f > 0).sum(-1).tolist(), seed=seed),
        "dead": Estimate.exact((f == 0).all(0).float().mean(), f.shape[1]),
        "ce_recovered": Estimate.exact((none - rebuilt) / (none - whole), n),
    }


@torch.no_grad()
def feature_rows(
    lm: LM, cases: Sequence[Case], owns: Mapping[int, Dictionary]
) -> pd.DataFrame:
    """Compare the features of even mixtures with their two members': a row a case.

    owns: an autoencoder of each layer that is looked at, which has its own rows.

    union: the smaller of two shares, of either member's own features, that the mixture
    has; union_sum: the same of the sum of states; union_random: of the next case's
    mixture that has neither member. top_own, second_own: the two shares. new: share of
    the mixture's features that neither member has; new_sum likewise. sum_error,
    top_error: squared distance of its activations from the mean of the members', and
    from the top token's; size: their own square. A mixture counts what is above
    half the threshold, as each member has half its weight; so do its members where they
    are compared with it by size, and where a feature is to be neither's. Cases in which
    a member has no features of its own are left out.
    """
    layers: dict[int, list] = {layer: [] for layer in owns}
    for case in cases:
        if case.kind == OWN:
            continue
        tokens = torch.cat([torch.tensor([case.top]), case.second]).to(lm.device)
        e = lm.embed[tokens]
        blend = torch.tensor([[HALF, HALF]]).to(e)
        fed = torch.cat([e, blend @ e])[:, None]
        states, logits = read_after(lm, case.ids, fed)
        if js_bits(*logits[:2].softmax(-1)) < APART:
            continue
        for layer, rows in layers.items():
            h = torch.cat([states[layer], blend.to(states) @ states[layer, :2]])
            facts = {"prompt": case.prompt, "template": case.template}
            facts |= {"kind": case.kind, "layer": layer, "tokens": {*tokens.tolist()}}
            rows.append(facts | _compared(owns[layer], h))
    for rows in layers.values():
        _add_random(rows)
    found = pd.DataFrame([row for rows in layers.values() for row in rows])
    return found.dropna().reset_index(drop=True)


def _compared(own: Dictionary, h: Tensor) -> dict:
    """Measure one case; h (4,D): states of top, second, mixture, and their sum."""
    a, b = own.features(h[:2])
    low_a, low_b, m, both = own.features(h, HALF)
    top_own, second_own = _shares(m, a, b)
    return (
        {"union": min(top_own, second_own), "new": _new(m, low_a, low_b)}
        | {"top_own": top_own, "second_own": second_own}
        | {"union_sum": min(_shares(both, a, b)), "new_sum": _new(both, low_a, low_b)}
        | {"sum_error": float((m - (low_a + low_b) / 2).square().sum())}
        | {"top_error": float((m - low_a).square().sum())}
        | {"size": float(m.square().sum()), "features": (m, a, b)}
    )


def _add_random(rows: list[dict]) -> None:
    """Add union_random to one layer's rows."""
    for i, row in enumerate(rows):
        far = [k for k, other in enumerate(rows) if not row["tokens"] & other["tokens"]]
        nearest = min(far, key=lambda k: (k - i) % len(rows), default=i)
        m, (_, a, b) = rows[nearest]["features"][0], row["features"]
        row["union_random"] = min(_shares(m, a, b))


def _shares(m: Tensor, a: Tensor, b: Tensor) -> tuple[float, float]:
    """Shares of a's own features, and of b's, that m has; NaN where one has none."""
    a, b, m = a > 0, b > 0, m > 0
    return float((m & a & ~b).sum() / (a & ~b).sum()), float(
        (m & b & ~a).sum() / (b & ~a).sum()
    )


def _new(m: Tensor, a: Tensor, b: Tensor) -> float:
    """Share of m's features that neither member has."""
    return float(((m > 0) & (a == 0) & (b == 0)).sum() / (m > 0).sum().clamp_min(1))


def feature_parts(
    rows: pd.DataFrame, explained: Estimate, seed: int = 0
) -> dict[str, dict[str, Estimate]]:
    """Estimate the parts of M3 by kind, whole templates drawn.

    Beside them match_sum and match_top: the share of the mixtures' activations, by
    squares, that the mean of the members' predicts, or the top token's.
    """
    columns = ("union", "new", "union_sum", "union_random", "new_sum")
    found = {}
    for kind, part in rows.groupby("kind", sort=False):
        own = {
            name: clustered(bootstrap, part.template, part[name], seed=seed)
            for name in columns
        }
        for name in ("sum", "top"):
            won = part["size"] - part[f"{name}_error"]
            match = clustered(ratio, part.template, won, part["size"], seed=seed)
            own[f"match_{name}"] = match
        found[str(kind)] = own | {"explained": explained}
    return found
