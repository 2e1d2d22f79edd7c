"""Does a model see token ids, or only their embeddings? (write-up 4.3, claim I2)

    check_id_embedding_equivalence   logits from ids against those from their embeddings
    check_relabelling                shuffle the vocabulary: only names may change
    check_copied_row                 a new id whose input row copies another's
    check_swapped_row                two ids trade input rows and keep their names

Each returns a frame, one row a prompt, mismatches among them; equality is bit for bit,
so that a NaN is a mismatch too. Models that look up more vectors by id in every layer
(Gemma 3n; Gemma 4 where it has per-layer inputs) do have a second track, and are
reported. An edit lasts while its check runs: the model is handed back unchanged.
"""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import nn

from experiments.scoring import equal_length_batches, token_ids

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.models import LM

LOGITS = 2**25  # most logits of one batch, to bound the memory of a large vocabulary


def check_id_embedding_equivalence(lm: LM, prompts: list) -> pd.DataFrame:
    """Compare `model(input_ids=ids)` with `model(inputs_embeds=embed(ids))`.

    prompts: texts, or lists of ids. Both calls see batches of one shape, because
    another shape may round differently. Columns: prompt (its number), tokens, equal
    (torch.equal over every position and token), max_difference, argmax_equal.
    A False in `equal` is a counterexample to "the model sees embeddings only".
    """
    table = lm.model.get_input_embeddings()

    def pair(ids):
        return _logits(lm, input_ids=ids), _logits(lm, inputs_embeds=table(ids))

    return _compare(lm, prompts, pair)


def check_relabelling(lm: LM, prompts: list, seed: int = 0) -> pd.DataFrame:
    """Give every token another id: permute the input rows and the head's rows alike.

    The renamed prompt must give the renamed logits. Columns as above, once the renaming
    is undone; the head's rows are multiplied in another order, so that `equal` may be
    False by rounding alone: judge max_difference and argmax_equal.
    """
    table, head = lm.model.get_input_embeddings(), lm.model.get_output_embeddings()
    rows = table.weight.shape[0]
    generator = torch.Generator().manual_seed(seed)
    new_id = torch.randperm(rows, generator=generator).to(lm.device)
    old_id = new_id.argsort()
    bias = getattr(head, "bias", None)
    changes = [(m, "weight", m.weight[old_id]) for m in (table, head)]
    if bias is not None:
        changes.append((head, "bias", bias[old_id]))

    def pair(ids):
        before = _logits(lm, input_ids=ids)
        with replaced(changes):
            return before, _logits(lm, input_ids=new_id[ids])[..., new_id]

    return _compare(lm, prompts, pair)


def check_copied_row(lm: LM, prompts: list, token: int | None = None) -> pd.DataFrame:
    """Add an input row that copies `token`'s, and write the new id where token stood.

    The head is left as it is, so that nothing but the id's name is new. token: an id;
    None takes the one found in most prompts. Prompts that do not hold it test nothing
    and have no row. Columns as in the first check.
    """
    table = lm.model.get_input_embeddings()
    prompts, token = _holding(lm, prompts, token)
    new = table.weight.shape[0]
    longer = torch.cat([table.weight, table.weight[token][None]])

    def pair(ids):
        before = _logits(lm, input_ids=ids)
        with replaced([(table, "weight", longer)]):
            return before, _logits(lm, input_ids=ids.masked_fill(ids == token, new))

    return _compare(lm, prompts, pair)


def check_swapped_row(
    lm: LM, prompts: list, other: int, token: int | None = None
) -> pd.DataFrame:
    """Let `token` and `other` trade input rows (not head rows), and feed the same ids.

    as_row: the logits are those of the other id's prompt before the trade, bit for bit;
    as_id: they are still those of the same prompt. follows_row = as_row and not as_id.
    """
    table = lm.model.get_input_embeddings()
    prompts, token = _holding(lm, prompts, token)
    traded = torch.arange(table.weight.shape[0], device=lm.device)
    traded[[token, other]] = traded[[other, token]]
    weight = table.weight[traded]

    still = []

    def pair(ids):
        with replaced([(table, "weight", weight)]):
            after = _logits(lm, input_ids=ids)
        before = _logits(lm, input_ids=ids)
        still.extend(torch.equal(x, y) for x, y in zip(before, after))
        return _logits(lm, input_ids=traded[ids]), after

    frame = _compare(lm, prompts, pair).rename(columns={"equal": "as_row"})
    order = [i for group in _groups(lm, prompts) for i in group]
    frame["as_id"] = pd.Series(still, index=order)
    frame["follows_row"] = frame["as_row"] & ~frame["as_id"]
    return frame


@contextmanager
def replaced(changes: list[tuple[nn.Module, str, Tensor]]):
    """Put other tensors in place of parameters, and the old ones back at the end.

    Replacing the input table alone leaves a tied head its old rows: it unties them.
    """
    old = [(module, name, getattr(module, name)) for module, name, _ in changes]
    try:
        for module, name, tensor in changes:
            setattr(module, name, nn.Parameter(tensor.detach(), requires_grad=False))
        yield
    finally:
        for module, name, parameter in old:
            setattr(module, name, parameter)


def _compare(lm, prompts, pair) -> pd.DataFrame:
    """Rows of both sides of `pair(ids (B,T)) -> two (B,T,V)`, in the prompts' order."""
    rows, found = token_ids(lm, prompts), []
    for group in _groups(lm, rows):
        with torch.no_grad():
            left, right = pair(torch.tensor([rows[i] for i in group], device=lm.device))
        for i, a, b in zip(group, left, right):
            gap, same = (a - b).abs().max(), torch.equal(a.argmax(-1), b.argmax(-1))
            found.append((i, len(rows[i]), torch.equal(a, b), float(gap), same))
    columns = ["prompt", "tokens", "equal", "max_difference", "argmax_equal"]
    return pd.DataFrame(found, columns=columns).sort_values("prompt", ignore_index=True)


def _groups(lm, rows) -> list[list[int]]:
    """Batches of prompts of one length that keep the logits at a bearable size."""
    wide = lm.model.get_input_embeddings().weight.shape[0] * max(map(len, rows))
    return equal_length_batches(rows, max(1, min(64, LOGITS // wide)))


def _logits(lm, **inputs) -> Tensor:
    return lm.model(**inputs, use_cache=False).logits.float()


def _holding(lm, prompts, token) -> tuple[list[list[int]], int]:
    """The prompts that hold `token`, or the token found in most of them."""
    rows = token_ids(lm, prompts)
    if token is None:
        counts = Counter(i for row in rows for i in sorted(set(row)))
        token = counts.most_common(1)[0][0]
    rows = [row for row in rows if token in row]
    if not rows:
        raise ValueError(f"token {token} is in none of the prompts: take one they hold")
    return rows, token
