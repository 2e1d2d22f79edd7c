"""Minimum non-negative signed sum (MNNS): problems, traces and targets (T2 to T4).

    Problems        numbers, traces, answers and targets of many problems
    all_problems    every problem there is
    split           those to train on, and those held out
    sum_id, sum_name   partial sums as token ids, and back as text

Give each of four numbers a sign, so that their sum is as small as it can be without
falling below 0: of 3 1 4 2 that is -3 +1 +4 -2 = 0. A trace is the row of partial sums
that one choice of signs runs through, here -3 -2 2 0; there are 16 a problem.
Source: Gozeten et al. 2025 (2505.23648).
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

COUNT, LARGEST = 4, 10  # numbers a problem, each from 1 to LARGEST
REACH = COUNT * LARGEST  # the largest partial sum
ZERO = (
    LARGEST + REACH
)  # id of the sum 0; the numbers 1 to LARGEST have 0 to LARGEST - 1
EQUALS = ZERO + REACH + 1  # id of the mark after the numbers
PAUSE = EQUALS + 1
VOCABULARY = PAUSE + 1
HELD_OUT = 0.2  # share of the multisets of numbers
SPLIT = 1  # seed of which; 0 had been looked at when the models' sizes were chosen


@dataclass(frozen=True)
class Problems:
    """N problems, as token ids where they are fed or predicted.

    numbers (N,4); traces (N,16,4); best (N,16): which traces end at answer (N,); trace
    (N,4): the first of these. spread (N,4,V): what to predict at each step: of all
    traces' partial sums how many are this one, and at the last step the answer.
    multiset (N,): alike where one problem is a permutation of another.
    """

    numbers: Tensor
    traces: Tensor
    best: Tensor
    trace: Tensor
    answer: Tensor
    spread: Tensor
    multiset: Tensor

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, rows: Tensor) -> Problems:
        """Pick rows, by numbers or by a mask."""
        return Problems(*(column[rows] for column in vars(self).values()))


def sum_id(value: Tensor | int) -> Tensor | int:
    """The token id of a partial sum."""
    return ZERO + value


def sum_name(token: int) -> str:
    """A token as text: "+3", "-2", "0", or a number of the problem, "3"."""
    if token < LARGEST:
        return str(token + 1)
    if token in (EQUALS, PAUSE):
        return "=" if token == EQUALS else "pause"
    return f"{token - ZERO:+d}" if token != ZERO else "0"


@cache
def all_problems() -> Problems:
    """List every problem: LARGEST to the power of COUNT."""
    values = torch.cartesian_prod(*[torch.arange(1, LARGEST + 1)] * COUNT)
    signs = torch.tensor(list(itertools.product((1, -1), repeat=COUNT)))
    traces = (values[:, None] * signs).cumsum(-1)
    ends = traces[..., -1]
    answer = ends.masked_fill(ends < 0, REACH + 1).amin(-1)
    spread = torch.zeros(len(values), COUNT, VOCABULARY)
    ids = sum_id(traces).transpose(1, 2)
    spread.scatter_add_(-1, ids, torch.full(ids.shape, 1 / len(signs)))
    spread[:, -1] = torch.nn.functional.one_hot(sum_id(answer), VOCABULARY)
    _, multiset = torch.unique(values.sort(-1).values, dim=0, return_inverse=True)
    best = ends == answer[:, None]
    trace = traces[torch.arange(len(values)), best.int().argmax(-1)]
    ids = values - 1, sum_id(traces), best, sum_id(trace), sum_id(answer)
    return Problems(*ids, spread, multiset)


def split(seed: int = SPLIT) -> tuple[Problems, Problems]:
    """Divide the problems into those to train on and those held out, by multiset."""
    problems = all_problems()
    kinds = int(problems.multiset.max()) + 1
    held = random.Random(seed).sample(range(kinds), round(HELD_OUT * kinds))
    out = torch.isin(problems.multiset, torch.tensor(held))
    return problems.take(~out), problems.take(out)
