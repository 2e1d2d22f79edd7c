"""Does a model see token ids, or only their embeddings? (write-up 4.3, claim I2)

    check_id_embedding_equivalence   logits from ids against those from their embeddings
    check_relabelling                shuffle the vocabulary: only names may change
    check_copied_row                 a new id whose input row copies another's
    check_swapped_row                two ids trade input rows and keep their names
    swap_ids                         the permutation of ids that exchanges two
    replaced                         other tensors in place of parameters, for a while

A check returns a frame, one row a prompt, mismatches among them; equality is bit for
bit, so that a NaN is a mismatch too. Models that look up more vectors by id in every
layer (Gemma 3n) do have a second track, and are reported; one that hides it by finding
ids again from their vectors (Gemma 4 with per-layer inputs) is refused. An edit lasts
while its check runs: the model is handed back unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import nn

from experiments.scoring import equal_length_batches, rows_per_batch, token_ids
from helpers.batching import check_model

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.models import LM


def check_id_embedding_equivalence(lm: LM, prompts: list) -> pd.DataFrame:
    """Compare `model(input_ids=ids)` with `model(inputs_embeds=embed(ids))`.

    prompts: texts, or lists of ids. Both calls see batches of one shape, because
    another shape may round differently. Columns: prompt (its number), tokens, equal
    (torch.equal over every position and token), max_difference, argmax_equal.
    A False in `equal` is a counterexample to "the model sees embeddings only".
    ValueError for a model that takes no mixtures: Gemma 4 with per-layer inputs finds
    the ids again from exact rows, so that equality would say nothing of it.
    """
    check_model(lm.model)
    table = lm.model.get_input_embeddings()

    def both(ids):
        return _logits(lm, input_ids=ids), _logits(lm, inputs_embeds=table(ids))

    return _compare(lm, prompts, both)


def check_relabelling(lm: LM, prompts: list, seed: int = 0) -> pd.DataFrame:
    """Give every token another id: permute the input rows and the head's rows alike.

    The renamed prompt must give the renamed logits. Columns as above, once the renaming
    is undone. The head multiplies its rows in another order then, which rounds
    otherwise; so it computes in float64 on both sides (not on MPS, which has none).
    `equal` may still be False by a last digit: judge max_difference and argmax_equal.
    """
    table, head = lm.model.get_input_embeddings(), lm.model.get_output_embeddings()
    generator = torch.Generator().manual_seed(seed)
    new_id = torch.randperm(table.weight.shape[0], generator=generator).to(lm.device)
    old_id = new_id.argsort()
    precise = torch.float32 if lm.device.type == "mps" else torch.float64
    own = [(head, "weight", head.weight.to(precise))]
    if getattr(head, "bias", None) is not None:
        own.append((head, "bias", head.bias.to(precise)))
    renamed = [(module, name, tensor[old_id]) for module, name, tensor in own]
    renamed.append((table, "weight", table.weight[old_id]))

    def both(ids):
        with replaced(own):
            before = _logits(lm, input_ids=ids)
        with replaced(renamed):
            return before, _logits(lm, input_ids=new_id[ids])[..., new_id]

    def cast(_, inputs):
        return tuple(x.to(precise) for x in inputs)

    hook = head.register_forward_pre_hook(cast)
    try:
        return _compare(lm, prompts, both)
    finally:
        hook.remove()


def check_copied_row(lm: LM, prompts: list, token: int) -> pd.DataFrame:
    """Add an input row that copies `token`'s, and write the new id where token stood.

    The head is left as it is, so that nothing but the id's name is new. Prompts that do
    not hold the token test nothing and have no row. Columns as in the first check.
    """
    table = lm.model.get_input_embeddings()
    new_id = table.weight.shape[0]
    longer = torch.cat([table.weight, table.weight[token][None]])

    def both(ids):
        before = _logits(lm, input_ids=ids)
        with replaced([(table, "weight", longer)]):
            return before, _logits(lm, input_ids=ids.masked_fill(ids == token, new_id))

    return _compare(lm, _holding(lm, prompts, token), both)


def check_swapped_row(lm: LM, prompts: list, token: int, other: int) -> pd.DataFrame:
    """Let `token` and `other` trade input rows (not head rows), and feed the same ids.

    as_row: the logits are those of the other id's prompt before the trade, bit for bit;
    as_id: they are still those of the same prompt. follows_row = as_row and not as_id.
    Prompts that do not hold the token have no row.
    """
    prompts = _holding(lm, prompts, token)
    table, swapped = lm.model.get_input_embeddings(), swap_ids(lm, token, other)
    weight = table.weight[swapped]

    def after_and_before(ids):
        with replaced([(table, "weight", weight)]):
            after = _logits(lm, input_ids=ids)
        return after, *(_logits(lm, input_ids=row) for row in (swapped[ids], ids))

    by_row, by_id = _compare_several(lm, prompts, after_and_before)
    frame = by_row.rename(columns={"equal": "as_row"}).assign(as_id=by_id["equal"])
    return frame.assign(follows_row=frame["as_row"] & ~frame["as_id"])


def swap_ids(lm: LM, a: int, b: int) -> Tensor:
    """All ids (V,) in order, but a and b exchanged: `swap_ids(lm, a, b)[ids]`."""
    rows = lm.model.get_input_embeddings().weight.shape[0]
    swapped = torch.arange(rows, device=lm.device)
    swapped[[a, b]] = swapped[[b, a]]
    return swapped


@contextmanager
def replaced(changes: list[tuple[nn.Module, str, Tensor]]) -> Iterator[None]:
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


def _compare(lm: LM, prompts: list, both: Callable) -> pd.DataFrame:
    """One row a prompt, in order, from both(ids (B,T)) -> two tensors (B,T,V)."""
    return _compare_several(lm, prompts, both)[0]


@torch.no_grad()
def _compare_several(lm: LM, prompts: list, run: Callable) -> list[pd.DataFrame]:
    """Compare the first tensor of run(ids (B,T)) with each other one: a frame each."""
    rows, found = token_ids(lm, prompts), []
    for same_length in equal_length_batches(rows):
        length = len(rows[same_length[0]])
        size = rows_per_batch(lm, length)
        for start in range(0, len(same_length), size):
            batch = same_length[start : start + size]
            first, *others = run(torch.tensor([rows[i] for i in batch]).to(lm.device))
            found += [
                (k, i, length, *_difference(a, b))
                for k, other in enumerate(others)
                for i, a, b in zip(batch, first, other)
            ]
    columns = ["prompt", "tokens", "equal", "max_difference", "argmax_equal"]
    frame = pd.DataFrame(found, columns=["other", *columns]).sort_values("prompt")
    each = [one for _, one in frame.groupby("other")]
    return [one[columns].reset_index(drop=True) for one in each]


def _difference(a: Tensor, b: Tensor) -> tuple[bool, float, bool]:
    """Compare logits (T,V): equal, largest difference, same argmax everywhere."""
    if torch.equal(a, b):  # the common case, and much faster than the rest
        return True, 0.0, True
    gap, same = (a - b).abs().max(), torch.equal(a.argmax(-1), b.argmax(-1))
    return False, float(gap), same


def _logits(lm: LM, **inputs: Tensor) -> Tensor:
    logits = lm.model(**inputs, use_cache=False).logits
    return logits if logits.dtype == torch.float64 else logits.float()


def _holding(lm: LM, prompts: list, token: int) -> list[list[int]]:
    """The prompts, as ids, that hold `token`; ValueError where there is none."""
    rows = [row for row in token_ids(lm, prompts) if token in row]
    if not rows:
        raise ValueError(f"token {token} is in none of the prompts: take one they hold")
    return rows
