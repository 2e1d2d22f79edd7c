"""How brittle are the markers of a chat prompt, and ordinary tokens? (5.2, claim I4)

    answer_undisturbed   what the prompts are answered as they are
    respond_to_noise     noise of growing size on one kind of token
    respond_to_edits     mixing, exchanging, deleting, rewriting

A prompt's answer follows the format when it ends, by an end token or a line break,
within the tokens allowed, and says the right thing before that. noise_radius.py
computes rates and radii from the rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
import torch

from experiments import metrics
from experiments.scoring import is_right
from experiments.token_id_brittleness import perturbations
from experiments.token_id_brittleness.perturbations import KINDS, MarkedPrompt
from helpers.batching import CachedForward, prepare_inputs, split_batches

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.prompts import Item
    from helpers.models import LM

DOSES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)  # x the RMS of the row itself
SHARES = (0.25, 0.5, 0.75, 1.0)  # of the way to another token's row
SHORT, SENTENCE = 24, 40  # tokens allowed for a bare answer, and for a whole sentence
BATCH = 128  # prompts a batch
LEAST_FOLLOWED = 0.8  # by I4's rule: below it nothing is judged, so nothing disturbed
DROP = 8  # answered prompts leave a batch once they are one in so many


@dataclass(frozen=True, eq=False)
class Undisturbed:
    """Prompts as they are: what each was answered (rows, a row a prompt), and the
    distribution of its first new token, probs (N,V)."""

    lm: LM
    prompts: list[MarkedPrompt]
    new_tokens: int
    probs: Tensor
    rows: pd.DataFrame

    @property
    def judged(self) -> bool:
        """Whether enough is followed undisturbed for disturbing to tell anything."""
        return bool(self.rows["followed"].mean() >= LEAST_FOLLOWED)


def answer_undisturbed(
    lm: LM, prompts: list[MarkedPrompt], new_tokens: int = SHORT
) -> Undisturbed:
    """Answer every prompt as it is, within `new_tokens`.

    Rows: item, followed, ended, kl (of the first new token, from the undisturbed
    distribution to this one, nats: 0), p_end (that it is an end token).
    """
    unchanged = [perturbations.unchanged(lm, p) for p in prompts]
    logits, answers = answer(lm, unchanged, new_tokens)
    probs = logits.softmax(-1)
    rows = _rows(lm, prompts, probs, probs, answers)
    return Undisturbed(lm, prompts, new_tokens, probs, rows)


def respond_to_noise(
    clean: Undisturbed,
    doses: Sequence[float] = DOSES,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
) -> pd.DataFrame:
    """Add noise to one kind of token, in one direction a prompt, at every dose.

    Rows as those of `answer_undisturbed`, with `kind` and `dose`. Where too few prompts
    are followed undisturbed there are rows of dose 0 only.
    """
    lm, frames = clean.lm, []
    for kind in kinds:
        frames.append(clean.rows.assign(kind=kind, dose=0.0))
        for dose in [dose for dose in doses if dose and clean.judged]:
            noisy = [
                perturbations.with_noise(lm, p, kind, dose, [seed, i])
                for i, p in enumerate(clean.prompts)
            ]
            frames.append(_respond(clean, noisy).assign(kind=kind, dose=dose))
    return pd.concat(frames, ignore_index=True)


def respond_to_edits(
    clean: Undisturbed,
    shares: Sequence[float] = SHARES,
    kinds: Sequence[str] = KINDS[:2],
    seed: int = 0,
) -> pd.DataFrame:
    """Perturb in every other way: rows as above, with `edit` in place of `dose`.

    Markers alone are also written in plain words and spelled out as characters. Where
    too few prompts are followed undisturbed there are rows of "as it is" only.
    """
    lm, prompts = clean.lm, clean.prompts
    as_it_is = [clean.rows.assign(kind=kind, edit="as it is") for kind in kinds]
    if not clean.judged:
        return pd.concat(as_it_is, ignore_index=True)
    frames = []

    def add(kind, edit, rows):
        frames.append(_respond(clean, rows).assign(kind=kind, edit=edit))

    for kind, unedited in zip(kinds, as_it_is):
        frames.append(unedited)
        for share in shares:
            mixed = [
                perturbations.interpolated(lm, p, kind, share, [seed, i])
                for i, p in enumerate(prompts)
            ]
            add(kind, f"mixed {share:.0%}", mixed)
        for edit, change in (
            ("exchanged", perturbations.with_swapped_tokens),
            ("deleted", perturbations.with_tokens_removed),
        ):
            add(kind, edit, [change(lm, p, kind) for p in prompts])
    for edit, rewrite in (
        ("in plain words", perturbations.plain_words_for(lm)),
        ("spelled out", str),
    ):
        texts = [perturbations.with_markers_as_text(lm, p, rewrite) for p in prompts]
        add("markers", edit, texts)
    return pd.concat(frames, ignore_index=True)


def follows_format(lm: LM, new_ids: list[int], item: Item) -> tuple[bool, bool]:
    """Whether an answer ends, and whether it says the right thing before that.

    It ends with an end token or a line break. -> (ended, followed)
    """
    ended, text = _ended(lm, new_ids)
    return ended, ended and is_right(text.split("\n")[0], item)


def _ended(lm: LM, new_ids: list[int]) -> tuple[bool, str]:
    kept = [i for i in new_ids if i not in lm.eos_ids]
    text = lm.tokenizer.decode(kept, skip_special_tokens=True).lstrip()
    return len(kept) < len(new_ids) or "\n" in text, text


def _respond(clean: Undisturbed, rows: list[Tensor]) -> pd.DataFrame:
    """Answer embeddings of every prompt, disturbed: one row a prompt."""
    logits, answers = answer(clean.lm, rows, clean.new_tokens)
    probs = logits.softmax(-1)
    return _rows(clean.lm, clean.prompts, clean.probs, probs, answers)


def _rows(lm, prompts, clean: Tensor, probs: Tensor, answers) -> pd.DataFrame:
    found = [follows_format(lm, ids, p.item) for ids, p in zip(answers, prompts)]
    frame = pd.DataFrame(found, columns=["ended", "followed"])
    frame["kl"] = metrics.kl_divergence(clean, probs.clamp_min(1e-30)).tolist()
    frame["p_end"] = probs[:, list(lm.eos_ids)].sum(-1).tolist()
    return frame.assign(item=range(len(prompts)))


@torch.inference_mode()
def answer(
    lm: LM, rows: list[Tensor], new_tokens: int
) -> tuple[Tensor, list[list[int]]]:
    """Continue each of rows (T,D) greedily, until it ends or new_tokens are out.

    -> logits (N,V) of the first new token, new ids. Prompts whose answer has ended
    leave the batch, where the model's cache can drop them.
    """
    embeds, mask = prepare_inputs(lm, rows, None, new_tokens)
    first_logits: list[Tensor] = []
    new_ids: list[list[int]] = [[] for _ in rows]
    over, may_end = [False] * len(rows), _MayEnd(lm)
    for first, x, padding in split_batches(lm, embeds, mask, BATCH):
        forward = CachedForward(lm.model, x, padding, new_tokens)
        going = list(range(first, first + len(x)))  # rows that are in the batch still
        logits = forward(x)
        first_logits.append(logits.float())
        for step in range(1, new_tokens + 1):
            tokens = logits.argmax(-1)
            for row, token in zip(going, tokens.tolist()):
                if not over[row]:
                    new_ids[row].append(token)
                    over[row] = may_end[token] and _ended(lm, new_ids[row])[0]
            left = [i for i, row in enumerate(going) if not over[row]]
            if not left or step == new_tokens:
                break
            droppable = hasattr(forward.cache, "batch_select_indices")
            if droppable and DROP * (len(going) - len(left)) >= len(going):
                kept = torch.tensor(left, device=lm.device)
                _keep(forward, kept)
                tokens, going = tokens[kept], [going[i] for i in left]
            logits = forward(lm.embed[tokens][:, None])
    return torch.cat(first_logits), new_ids


def _keep(forward: CachedForward, kept: Tensor) -> None:
    """Leave only the rows `kept` in a batch that is being continued."""
    forward.cache.batch_select_indices(kept)
    if forward.positions is not None:
        forward.positions = forward.positions[kept]
    if forward.masks is not None:
        prompt, later = forward.masks
        forward.masks = prompt[kept], later[kept]


class _MayEnd(dict):
    """Token id -> whether it ends a text or holds a line break, looked up once."""

    def __init__(self, lm: LM):
        super().__init__()
        self.lm = lm

    def __missing__(self, token: int) -> bool:
        may = token in self.lm.eos_ids or "\n" in self.lm.tokenizer.decode([token])
        return self.setdefault(token, may)
