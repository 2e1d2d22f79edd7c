"""How brittle are the markers of a chat prompt, and ordinary tokens? (5.2, claim I4)

    respond_to_noise   noise of growing size on one kind of token
    respond_to_edits   mixing, exchanging, deleting, rewriting

A prompt's answer follows the format when it ends, by an end token or a line break,
within the tokens allowed, and says the gold answer before that. noise_radius.py
computes rates and radii from the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from experiments import metrics
from experiments.scoring import follows_instruction
from experiments.token_id_brittleness import perturbations
from experiments.token_id_brittleness.perturbations import KINDS, MarkedPrompt
from helpers.batching import next_logits
from helpers.decode import generate_concepts
from helpers.mixture import MixtureConfig

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.models import LM

DOSES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)  # x the RMS of the row itself
SHARES = (0.25, 0.5, 0.75, 1.0)  # of the way to another token's row
NEW_TOKENS, BATCH = 24, 128  # tokens allowed for an answer; prompts a batch
GREEDY = MixtureConfig(top_k=1, mode="discrete", norm="none")


def respond_to_noise(
    lm: LM,
    prompts: list[MarkedPrompt],
    doses: Sequence[float] = DOSES,
    kinds: Sequence[str] = KINDS,
    seed: int = 0,
) -> pd.DataFrame:
    """Add noise to one kind of token, in one direction a prompt, at every dose.

    Rows: kind, dose, item, followed, ended, kl (of the first new token, from the clean
    distribution to the perturbed one, nats), p_end (that it is an end token).
    """
    respond, frames = _responder(lm, prompts), []
    clean = respond([perturbations.unchanged(lm, p) for p in prompts])
    for kind in kinds:
        for dose in doses:
            rows = clean
            if dose:
                noisy = [
                    perturbations.with_noise(lm, p, kind, dose, [seed, i])
                    for i, p in enumerate(prompts)
                ]
                rows = respond(noisy)
            frames.append(rows.assign(kind=kind, dose=dose))
    return pd.concat(frames, ignore_index=True)


def respond_to_edits(
    lm: LM,
    prompts: list[MarkedPrompt],
    shares: Sequence[float] = SHARES,
    kinds: Sequence[str] = KINDS[:2],
    seed: int = 0,
) -> pd.DataFrame:
    """Perturb in every other way: rows as above, with `edit` in place of `dose`.

    Markers alone are also written in plain words and spelled out as characters.
    """
    respond, frames = _responder(lm, prompts), []
    clean = respond([perturbations.unchanged(lm, p) for p in prompts])

    def add(kind, edit, rows):
        frames.append(respond(rows).assign(kind=kind, edit=edit))

    for kind in kinds:
        frames.append(clean.assign(kind=kind, edit="as it is"))
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


def _responder(
    lm: LM, prompts: list[MarkedPrompt]
) -> Callable[[list[Tensor]], pd.DataFrame]:
    """Return a function from the embeddings of every prompt to one row a prompt."""
    unchanged = [perturbations.unchanged(lm, p) for p in prompts]
    clean = next_logits(lm, unchanged, batch_size=BATCH).softmax(-1)

    def respond(rows: list[Tensor]) -> pd.DataFrame:
        trace = generate_concepts(
            lm,
            steps=NEW_TOKENS,
            config=GREEDY,
            inputs_embeds=rows,
            batch_size=BATCH,
            progress=False,
        )
        probs = next_logits(lm, rows, batch_size=BATCH).softmax(-1)
        found = [
            follows_instruction(lm, new_ids, prompt.gold)
            for new_ids, prompt in zip(trace.tokens, prompts)
        ]
        frame = pd.DataFrame(found, columns=["ended", "followed"])
        frame["kl"] = metrics.kl_divergence(clean, probs.clamp_min(1e-30)).tolist()
        frame["p_end"] = probs[:, list(lm.eos_ids)].sum(-1).tolist()
        return frame.assign(item=range(len(prompts)))

    return respond
