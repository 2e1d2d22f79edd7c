"""Train a model: the loop that readers, thinkers and searchers share.

fit    minimise a loss, step by step, at a rate of its own for each
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from tqdm import trange


def fit(
    optimiser: torch.optim.Optimizer,
    loss_at: Callable[[int], Tensor],
    rate_at: Callable[[int], float],
    steps: int,
    name: str,
) -> None:
    """Take `steps` steps of an optimiser, gradients clipped to a norm of 1.

    loss_at(step): the loss of a batch; rate_at(step): the learning rate; name: on the
    progress bar. One thread, so that a seed gives the same weights everywhere.
    """
    torch.set_num_threads(1)
    group = optimiser.param_groups[0]
    for step in trange(steps, desc=name, disable=None, leave=False):
        loss = loss_at(step)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(group["params"], 1.0)
        group["lr"] = rate_at(step)
        optimiser.step()
