"""What thoughts about a graph are worth, and which nodes they hold (T5, T6).

    right_answers   which answers are right, by arm; answer_parts: T5's parts
    answer_table    shares of right answers by arm, depth and training seed, to draw
    standings       how high every node stands in every thought, by what is asked of
    groups          which nodes are which, at each step of the search
    frontier_parts  T6's parts; frontier_table: how high each group stands, to draw

S training seeds answer the same N questions. Each seed is judged alone, as in T1 to T4,
so that no interval is over three of anything. Intervals draw problems.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel

from experiments.stats import Estimate, bootstrap, paired_difference
from experiments.trained_reading import learned, searching
from experiments.trained_reading.graphs import DEPTHS, LONGEST, NEVER, NODES, Questions

LABELS = {
    "none": "nothing",
    "none_long": f"nothing, {searching.LONGER} times the steps",
    "pause": "pause tokens",
    "pause_long": f"pause tokens, {searching.LONGER} times the steps",
    "text": "the path as text",
    "coconut": "hidden states (COCONUT)",
}
AGAINST = ("pause", "none", "pause_long", "none_long", "text")  # what T5 compares
ASKED_OF = {
    "coconut": "hidden states fed back",
    "pause": "pause tokens",
    "untrained": "untrained",
}
GROUPS = {
    "path": "on the path asked for",
    "frontier": "frontier, off the path",
    "dead_end": "of these, dead ends",
    "own": "of these, out of the other start's reach",
    "earlier": "reached before",
    "later": "reached later",
    "unreached": "reached later, or never",
    "mirrored": "the other start's frontier",
}
FROM_STEP = 2  # step 1 is read off the question, without any thought


def right_answers() -> dict[str, np.ndarray]:
    """Read which answers are right: arm -> (S,N) of 0 and 1."""
    rows = learned.searches()
    return {
        arm: np.array(
            [list(map(int, digits)) for digits in rows.right[rows.arm == arm]]
        )
        for arm in searching.ARMS
    }


def answer_parts(
    right: Mapping[str, np.ndarray], trained: int, seed: int = 0
) -> dict[str, Estimate]:
    """Estimate T5's parts of one training seed (a row) from right_answers."""
    hits = {arm: of_seeds[trained] for arm, of_seeds in right.items()}
    parts = {arm: bootstrap(column, seed=seed) for arm, column in hits.items()}
    for arm in AGAINST:
        difference = paired_difference(hits["coconut"], hits[arm], seed=seed)
        parts[f"coconut_over_{arm}"] = difference
    return parts


def answer_table(
    right: Mapping[str, np.ndarray], asked: Questions, seed: int = 0
) -> pd.DataFrame:
    """Tabulate shares of right answers: arm, depth, line, value, low, high, n."""
    rows = []
    for depth in DEPTHS:
        here = (asked.depth == depth).numpy()
        for arm, label in LABELS.items():
            for trained, hits in zip(learned.SEEDS, right[arm]):
                row = {"arm": label, "depth": f"{depth} steps away"}
                row |= {"line": f"training seed {trained}"}
                rows.append(row | vars(bootstrap(hits[here], resamples=500, seed=seed)))
    return pd.DataFrame(rows)


def standings(asked: Questions) -> dict[str, Tensor]:
    """Measure how high nodes stand in thoughts: ASKED_OF -> (S,N,LONGEST,NODES).

    S is the number of training seeds, and 1 for the untrained model.
    """
    found = {"untrained": [standing(searching.new_model().eval(), "coconut", asked)]}
    for arm in learned.THINKING:
        models = [learned.searchers(seed)[arm] for seed in learned.SEEDS]
        found[arm] = [standing(model, arm, asked) for model in models]
    return {name: torch.stack(found[name]) for name in ASKED_OF}


def standing(model: GPT2LMHeadModel, arm: str, asked: Questions) -> Tensor:
    """Measure how high nodes stand in each thought: (N,LONGEST,NODES).

    The thought's inner products with the nodes' embeddings, of mean 0 and standard
    deviation 1 over the nodes. With pause tokens: of the hidden state at its place.
    """
    _, states = searching.reply(model, arm, asked, thoughts=LONGEST - 1)
    table = model.transformer.wte.weight[:NODES].detach()
    inner = (states @ table.T).double()
    spread = inner.std(-1, correction=0, keepdim=True)
    return (inner - inner.mean(-1, keepdim=True)) / spread


def groups(asked: Questions) -> dict[str, Tensor]:
    """Tell which nodes are which at each step: GROUPS -> masks (N,LONGEST,NODES).

    Up to the target's depth; nodes that the question names are in no group. A node off
    the path may lie on another one: dead ends lead to the target by none. own and
    mirrored are alike but for which of the two starts is asked of.
    """
    step = torch.arange(1, LONGEST + 1)[:, None]
    none = torch.zeros(len(asked), NODES, dtype=torch.bool)
    nodes = asked.named, asked.path, asked.other_path
    named, path, other_path = (none.scatter(1, ids, True)[:, None] for ids in nodes)
    distance, other = asked.distance[:, None], asked.other[:, None]
    counted = ~named & (step <= asked.depth[:, None, None])
    leads = leading(asked)[:, None]
    found = {
        "path": (distance == step) & path,
        "frontier": (distance == step) & ~path,
        "dead_end": (distance == step) & ~leads,
        "own": (distance == step) & ~path & (other > step),
        "earlier": distance < step,
        "later": (distance > step) & (distance < NEVER),
        "unreached": distance > step,
        "mirrored": (other == step) & (distance > step) & ~other_path,
    }
    return {name: mask & counted for name, mask in found.items()}


def leading(asked: Questions) -> Tensor:
    """Tell which nodes (N,NODES) lead to the answer, itself among them."""
    source, to = asked.edges.unbind(-1)
    leads = torch.nn.functional.one_hot(asked.answer, NODES)
    for _ in range(NODES):
        leads = leads.scatter_reduce(1, source, leads.gather(1, to), "amax")
    return leads.bool()


def _over(stands: Tensor, one: Tensor, two: Tensor) -> np.ndarray:
    """Mean of one mask's nodes less that of another's: (N,) of problems with both."""
    one, two = one[:, FROM_STEP - 1 :], two[:, FROM_STEP - 1 :]
    both = one.any(-1).any(-1) & two.any(-1).any(-1)
    late = stands[both, FROM_STEP - 1 :]
    means = [
        (late * mask[both]).sum((-1, -2)) / mask[both].sum((-1, -2))
        for mask in (one, two)
    ]
    return (means[0] - means[1]).numpy()


def frontier_parts(
    stands: Mapping[str, Tensor],
    asked: Questions,
    right: Mapping[str, np.ndarray],
    trained: int,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Estimate T6's parts, in standard deviations, from standings and right_answers.

    trained: the training seed, a row of both. The untrained model is the same for all.
    """
    of, thoughts = groups(asked), stands["coconut"][trained]
    frontier, unreached = of["frontier"], of["unreached"]
    found = _over(thoughts, frontier, unreached)
    pause = _over(stands["pause"][trained], frontier, unreached)
    columns = {
        "frontier_over_unreached": found,
        "frontier_over_later": _over(thoughts, frontier, of["later"]),
        "frontier_over_mirrored": _over(thoughts, of["own"], of["mirrored"]),
        "frontier_pause": pause,
        "frontier_over_pause": found - pause,
        "frontier_untrained": _over(stands["untrained"][0], frontier, unreached),
        "dead_end_over_unreached": _over(thoughts, of["dead_end"], unreached),
        "path_over_unreached": _over(thoughts, of["path"], unreached),
        "earlier_over_unreached": _over(thoughts, of["earlier"], unreached),
        "coconut": right["coconut"][trained],
    }
    return {name: bootstrap(column, seed=seed) for name, column in columns.items()}


def frontier_table(
    stands: Mapping[str, Tensor], asked: Questions, seed: int = 0
) -> pd.DataFrame:
    """Tabulate how high each group stands: group, of, line (thought), value, low, high.

    Thoughts 1 to 3; at the fourth, few nodes are left that the question does not name.
    Of each problem the mean of the training seeds.
    """
    rows = []
    for (name, mask), t in ((g, t) for g in groups(asked).items() for t in range(3)):
        has = mask[:, t].any(-1)
        if not has.any():
            continue
        for of, x in stands.items():
            mean = (x[:, has, t] * mask[has, t]).sum(-1) / mask[has, t].sum(-1)
            row = {
                "group": GROUPS[name],
                "of": ASKED_OF[of],
                "line": f"thought {t + 1}",
            }
            rows.append(row | vars(bootstrap(mean.mean(0), resamples=500, seed=seed)))
    return pd.DataFrame(rows)
