"""How brittle are the markers of a chat prompt, and ordinary tokens? (5.2, claim I4)

    dose_response   noise of growing size on one kind of token
    edits           mixing, exchanging, deleting, rewriting
    follows         whether one answer follows the format

An answer follows the format when it ends, by an end token or a line break, within the
tokens allowed, and says the gold answer before that. radius.py reads off the rest.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pandas as pd

from . import disturbing as d
from . import stats
from .decode import generate_concepts
from .forward import next_logits
from .mixture import MixtureConfig

if TYPE_CHECKING:
    from .models import LM

DOSES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)  # x the RMS of the row itself
MIXES = (0.25, 0.5, 0.75, 1.0)  # share of another token's row
NEW, BATCH = 24, 128  # tokens allowed for an answer; prompts a batch


def dose_response(
    lm: LM, parts: list[d.Parts], doses=DOSES, kinds=d.KINDS, seed: int = 0
) -> pd.DataFrame:
    """Noise on one kind of token, in one direction a prompt, at every dose.

    Rows: kind, dose, item, followed, ended, kl (of the first new token, from the clean
    distribution to the disturbed one, nats), p_end (that it is an end token).
    """
    respond, frames = _responder(lm, parts), []
    clean = respond([d.as_is(lm, p) for p in parts])
    for kind in kinds:
        for dose in doses:
            if dose == 0:
                frames.append(clean.assign(kind=kind, dose=dose))
                continue
            rows = [d.noised(lm, p, kind, dose, [seed, i]) for i, p in enumerate(parts)]
            frames.append(respond(rows).assign(kind=kind, dose=dose))
    return pd.concat(frames, ignore_index=True)


def edits(
    lm: LM, parts: list[d.Parts], mixes=MIXES, kinds=d.KINDS[:2], seed: int = 0
) -> pd.DataFrame:
    """Every other disturbance: rows as above, with `edit` in place of `dose`.

    Markers alone are also written in plain words and spelled out as characters.
    """
    respond, frames = _responder(lm, parts), []
    clean = respond([d.as_is(lm, p) for p in parts])

    def run(kind, edit, rows):
        frames.append(respond(rows).assign(kind=kind, edit=edit))

    for kind in kinds:
        frames.append(clean.assign(kind=kind, edit="as it is"))
        for share in mixes:
            rows = [d.mixed(lm, p, kind, share, [seed, i]) for i, p in enumerate(parts)]
            run(kind, f"mixed {share:.0%}", rows)
        run(kind, "exchanged", [d.exchanged(lm, p, kind) for p in parts])
        run(kind, "deleted", [d.deleted(lm, p, kind) for p in parts])
    plain = d.in_plain_words(lm)
    run("markers", "in plain words", [d.as_text(lm, p, plain) for p in parts])
    run("markers", "spelled out", [d.as_text(lm, p) for p in parts])
    return pd.concat(frames, ignore_index=True)


def _responder(lm, parts):
    """A function: embeddings of every prompt -> what comes back, one row an item."""
    clean = next_logits(lm, [d.as_is(lm, p) for p in parts], batch_size=BATCH)
    clean = clean.softmax(-1)
    greedy = MixtureConfig(top_k=1, mode="discrete", norm="none")

    def respond(rows) -> pd.DataFrame:
        new = generate_concepts(
            lm, steps=NEW, config=greedy, inputs_embeds=rows, batch_size=BATCH,
            progress=False,
        ).tokens  # fmt: skip
        probs = next_logits(lm, rows, batch_size=BATCH).softmax(-1)
        pairs = [follows(lm, ids, p.gold) for ids, p in zip(new, parts)]
        frame = pd.DataFrame(pairs, columns=["ended", "followed"])
        frame["kl"] = stats.kl(clean, probs.clamp_min(1e-30)).tolist()
        frame["p_end"] = probs[:, list(lm.eos_ids)].sum(-1).tolist()
        return frame.assign(item=range(len(parts)))

    return respond


def follows(lm: LM, new: list[int], gold: str) -> tuple[bool, bool]:
    """(ended, followed): does an answer end, and does it say gold before that?"""
    words = [i for i in new if i not in lm.eos_ids]
    text = lm.tokenizer.decode(words, skip_special_tokens=True).lstrip()
    ended = len(words) < len(new) or "\n" in text
    said = re.escape(gold.strip().rstrip(".").casefold())
    answer = text.split("\n")[0].casefold()
    return ended, ended and re.search(rf"(?<!\w){said}(?!\w)", answer) is not None
