"""How brittle are the markers of a chat prompt, and ordinary tokens? (5.2, claim I4)

    dose_response   noise of growing size on one kind of token
    edits           mixing, exchanging, deleting, rewriting
    follows         whether one answer follows the format

An answer follows the format when it ends, by an end token or a line break, within the
tokens allowed, and says the gold answer before that. radius.py reads off the rest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from experiments import metrics
from experiments.scoring import follows_instruction
from experiments.token_id_brittleness import perturbations
from helpers.batching import next_logits
from helpers.decode import generate_concepts
from helpers.mixture import MixtureConfig

if TYPE_CHECKING:
    from helpers.models import LM

DOSES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)  # x the RMS of the row itself
MIXES = (0.25, 0.5, 0.75, 1.0)  # share of another token's row
NEW, BATCH = 24, 128  # tokens allowed for an answer; prompts a batch


def dose_response(
    lm: LM,
    parts: list[perturbations.MarkedPrompt],
    doses=DOSES,
    kinds=perturbations.KINDS,
    seed: int = 0,
) -> pd.DataFrame:
    """Noise on one kind of token, in one direction a prompt, at every dose.

    Rows: kind, dose, item, followed, ended, kl (of the first new token, from the clean
    distribution to the disturbed one, nats), p_end (that it is an end token).
    """
    respond, frames = _responder(lm, parts), []
    clean = respond([perturbations.unchanged(lm, p) for p in parts])
    for kind in kinds:
        for dose in doses:
            if dose == 0:
                frames.append(clean.assign(kind=kind, dose=dose))
                continue
            rows = [
                perturbations.with_noise(lm, p, kind, dose, [seed, i])
                for i, p in enumerate(parts)
            ]
            frames.append(respond(rows).assign(kind=kind, dose=dose))
    return pd.concat(frames, ignore_index=True)


def edit_responses(
    lm: LM,
    parts: list[perturbations.MarkedPrompt],
    mixes=MIXES,
    kinds=perturbations.KINDS[:2],
    seed: int = 0,
) -> pd.DataFrame:
    """Every other disturbance: rows as above, with `edit` in place of `dose`.

    Markers alone are also written in plain words and spelled out as characters.
    """
    respond, frames = _responder(lm, parts), []
    clean = respond([perturbations.unchanged(lm, p) for p in parts])

    def run(kind, edit, rows):
        frames.append(respond(rows).assign(kind=kind, edit=edit))

    for kind in kinds:
        frames.append(clean.assign(kind=kind, edit="as it is"))
        for share in mixes:
            rows = [
                perturbations.interpolated(lm, p, kind, share, [seed, i])
                for i, p in enumerate(parts)
            ]
            run(kind, f"mixed {share:.0%}", rows)
        run(
            kind,
            "exchanged",
            [perturbations.with_swapped_tokens(lm, p, kind) for p in parts],
        )
        run(
            kind,
            "deleted",
            [perturbations.with_tokens_removed(lm, p, kind) for p in parts],
        )
    plain = perturbations.plain_words_for(lm)
    run(
        "markers",
        "in plain words",
        [perturbations.with_markers_as_text(lm, p, plain) for p in parts],
    )
    run(
        "markers",
        "spelled out",
        [perturbations.with_markers_as_text(lm, p) for p in parts],
    )
    return pd.concat(frames, ignore_index=True)


def _responder(lm, parts):
    """A function: embeddings of every prompt -> what comes back, one row an item."""
    clean = next_logits(
        lm, [perturbations.unchanged(lm, p) for p in parts], batch_size=BATCH
    )
    clean = clean.softmax(-1)
    greedy = MixtureConfig(top_k=1, mode="discrete", norm="none")

    def respond(rows) -> pd.DataFrame:
        new = generate_concepts(
            lm, steps=NEW, config=greedy, inputs_embeds=rows, batch_size=BATCH,
            progress=False,
        ).tokens  # fmt: skip
        probs = next_logits(lm, rows, batch_size=BATCH).softmax(-1)
        pairs = [follows_instruction(lm, ids, p.gold) for ids, p in zip(new, parts)]
        frame = pd.DataFrame(pairs, columns=["ended", "followed"])
        frame["kl"] = metrics.kl_divergence(clean, probs.clamp_min(1e-30)).tolist()
        frame["p_end"] = probs[:, list(lm.eos_ids)].sum(-1).tolist()
        return frame.assign(item=range(len(parts)))

    return respond
