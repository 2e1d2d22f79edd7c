"""The mixtures that are followed through the layers, and what they are compared with.

    Case               a top token, the second one (or several), and others in its place
    make_cases         the cases of some prompts: related, unrelated, the model's own

A mixture is w E[top] + (1 - w) sum_i share_i E[second_i]. The two tokens of a pair are
the prompt's two likeliest (related), or the likeliest and a random one (unrelated). The
model's own mixture is the write-up's, with all its lighter tokens as the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from experiments.prefixes import LEAST
from helpers.batching import next_logits
from helpers.mixture import MixtureConfig, mixture_weights

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.prompts import Item
    from helpers.models import LM

RELATED, UNRELATED, OWN = "related", "unrelated", "own"
WEIGHTS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)  # of the top token
JUDGED = (0.6, 0.7, 0.8, 0.9)  # of them, over which M1, M2 and M4 sum


@dataclass(frozen=True, eq=False)
class Case:
    """One prompt and kind. tokens: top, seconds (n,), others in their place (n,).

    share (n,): how the weight of the seconds is dealt out among them, summing to one.
    """

    prompt: int
    template: str
    kind: str
    ids: list[int]  # of the prompt
    top: int
    second: Tensor
    other: Tensor
    share: Tensor
    weights: tuple[float, ...]

    @property
    def tokens(self) -> Tensor:
        """The tokens (1+2n,) that are read alone: top, seconds, others."""
        return torch.cat([torch.tensor([self.top]), self.second, self.other])

    def gathered(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sum what was measured of tokens (1+2n,...) -> of top, seconds, others."""
        n = len(self.second)
        share = self.share.to(x)
        add = (torch.tensordot(share, part, 1) for part in (x[1 : n + 1], x[n + 1 :]))
        return x[0], *add

    def mixed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mix vectors of tokens (1+2n,D), one a weight -> (W,D), and others' (W,D)."""
        top, second, other = self.gathered(x)
        w = torch.tensor(self.weights).to(x)[:, None]
        return w * top + (1 - w) * second, w * top + (1 - w) * other


def make_cases(
    lm: LM, items: Sequence[Item], weights: Sequence[float] = WEIGHTS, seed: int = 0
) -> list[Case]:
    """Make the three cases of each prompt."""
    draw = torch.Generator().manual_seed(seed)
    cases = []
    for b, item in enumerate(items):
        ids = lm.tokenizer(item.prompt)["input_ids"]
        logits = next_logits(lm, lm.embed[ids][None])
        probs, indices, _ = mixture_weights(logits, MixtureConfig())
        probs, indices = probs[0].cpu(), indices[0].cpu()
        kept = (probs[1:] >= LEAST).nonzero()[:, 0] + 1
        far = torch.randperm(lm.used, generator=draw)
        far = far[~torch.isin(far, indices)]
        two = tuple(weights), torch.ones(1)
        kinds = {
            RELATED: (indices[1:2], *two),
            UNRELATED: (far[-1:], *two),
            OWN: (indices[kept], (float(probs[0]),), probs[kept]),
        }
        for kind, (second, own, share) in kinds.items():
            if len(second):
                case = Case(
                    b, item.template, kind, ids, int(indices[0]), second,
                    far[: len(second)], share / share.sum(), own,
                )  # fmt: skip
                cases.append(case)
    return cases
