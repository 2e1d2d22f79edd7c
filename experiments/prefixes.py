"""Read one vector after a context, for many vectors and few contexts.

logits_after    next-token logits after each vector, its context read only once
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from helpers.batching import CachedForward, next_logits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from helpers.models import LM

BATCH = 256  # vectors read in one pass
# Of what is compared after them (R1 and R7, W2 and W3):
SEPARATE = 0.05  # bits: below it, two predictions count as the same
LEAST = 1e-3  # lighter members are left out of a mixture's q; `dropped` says how much


@torch.no_grad()
def logits_after(
    lm: LM, contexts: Sequence[Tensor], owners: Sequence[int], vectors: Tensor
) -> Tensor:
    """Compute the logits (M,V) after vectors (M,D), each behind a context of its own.

    contexts: embeddings (L_i,D); owners: for each vector the number of its context.
    Contexts of one length share a pass, so that nothing is padded; their cache is then
    dealt out to the vectors. Float32, on the CPU. A model whose cache cannot be dealt
    out reads every context again for each vector.
    """
    of_context: list[list[int]] = [[] for _ in contexts]
    for row, owner in enumerate(owners):
        of_context[owner].append(row)
    found = torch.empty(len(vectors), lm.embed.shape[0])
    for group in _groups([len(context) for context in contexts], of_context):
        prefix = torch.stack([contexts[i] for i in group]).to(lm.device, lm.dtype)
        rows = [row for i in group for row in of_context[i]]
        of_row = [k for k, i in enumerate(group) for _ in of_context[i]]
        fed = vectors[rows].to(lm.device, lm.dtype)[:, None]
        forward = CachedForward(lm.model, prefix, None, 1)
        forward(prefix)
        if hasattr(forward.cache, "batch_select_indices"):
            at = torch.tensor(of_row, device=lm.device)
            forward.cache.batch_select_indices(at)
            logits = forward(fed)
        else:
            logits = next_logits(lm, torch.cat([prefix[of_row], fed], 1), None, BATCH)
        found[rows] = logits.float().cpu()
    return found


def _groups(lengths: list[int], of_context: list[list[int]]) -> list[list[int]]:
    """Contexts of one length, with at most BATCH vectors among them where they can."""
    groups: list[list[int]] = []
    room: dict[int, int] = {}  # by length: vectors that its last group may still take
    last: dict[int, list[int]] = {}
    for i, length in enumerate(lengths):
        count = len(of_context[i])
        if not count:
            continue
        if count > room.get(length, 0):
            last[length], room[length] = [], BATCH
            groups.append(last[length])
        last[length].append(i)
        room[length] -= count
    return groups
