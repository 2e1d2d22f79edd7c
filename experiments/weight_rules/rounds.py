"""Write a few concept tokens, translate them back to text, go on from there (W5).

    write             the concept tokens of a round
    write_in_rounds   the protocol for many prompts: the text that comes of it
    round_rows        its text, its controls and greedy decoding: one row a prompt
    round_parts       W5's parts, by frame, tokens a round and context
    kept_by_length    the same to draw; examples: texts, made safe to show

The write-up's frames for reading (3.2) take the N vectors in their slot. What the
model answers, up to the first line break, is put in the vectors' place; the next N are
written after that. With context, the text so far stands before the frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from experiments.frames import fill_frame
from experiments.metrics import common_length
from experiments.scoring import is_right, normalise_words
from experiments.stats import Estimate, bootstrap, clustered, paired_difference, share
from harness.safe_text import readable
from helpers.decode import continue_from, generate_concepts
from helpers.mixture import MixtureConfig

if TYPE_CHECKING:
    from torch import Tensor

    from experiments.prompts import Item
    from helpers.models import LM

Cell = tuple[str, int, str]  # frame, tokens a round, context
Parts = dict[str, Estimate]
Chain = tuple["Tensor", list[int]]  # vectors (T,D) and top ids of one prompt

LENGTHS = (2, 3, 4, 8)  # concept tokens a round
ROUNDS = 2
BATCH = 256  # prompts at once
CONTEXTS = ("alone", "with context")
GREEDY = MixtureConfig(top_k=1, mode="discrete", norm="none")
AXES = {"x": "n", "y": "value", "by": "line", "low": "low", "high": "high"}
AXES |= {"panel": "model", "ylabel": "share of greedy's words kept"}


def frames(lm: LM) -> list[str]:
    """Name the write-up's frames with a text around the slot that a model has."""
    has_chat = getattr(lm.tokenizer, "chat_template", None) is not None
    return ["instruction", "completion"] if has_chat else ["completion"]


def translation_tokens(length: int) -> int:
    """How many new tokens the translation of `length` concept tokens may have."""
    return 3 * length + 4


def write(lm: LM, texts: Sequence[str], length: int) -> list[Chain]:
    """Write at most `length` concept tokens after each text: vectors (T,D), top ids."""
    config = MixtureConfig()
    trace = generate_concepts(lm, texts, length, config, batch_size=BATCH)
    rows = zip(trace.vectors, trace.tokens, trace.lengths.tolist())
    return [(vectors[:n], ids[:n]) for vectors, ids, n in rows]


def write_in_rounds(
    lm: LM,
    prompts: Sequence[str],
    frame: str,
    length: int,
    context: str,
    filling: str = "concept tokens",
    first: Sequence[Chain] | None = None,
) -> list[str]:
    """Write `length` concept tokens, translate, go on, ROUNDS times -> new texts.

    filling: what is put into the frame's slot: "concept tokens", or "text", the top
    tokens in words: the ceiling of what the frame gives back. first: what was written
    after the prompts, of at least this length: cut to it, not written again.
    """
    texts = list(prompts)
    for turn in range(ROUNDS):
        if turn or first is None:
            written = write(lm, texts, length)
        else:
            written = [(vectors[:length], ids[:length]) for vectors, ids in first]
        slots: list = [vectors for vectors, _ in written]
        if filling == "text":
            ids = [ids for _, ids in written]
            slots = lm.tokenizer.batch_decode(ids, skip_special_tokens=True)
        before = texts if context == CONTEXTS[1] else ()
        rows = fill_frame(lm, frame, slots, before)
        most = translation_tokens(length)
        said = continue_from(lm, rows, max_new_tokens=most, batch_size=BATCH)
        new = [(text.strip().splitlines() or [""])[0] for text in said]
        texts = [f"{text} {more}".strip() for text, more in zip(texts, new)]
    return [text[len(prompt) :].strip() for text, prompt in zip(texts, prompts)]


def round_rows(
    lm: LM, items: Sequence[Item], lengths: Sequence[int] = LENGTHS
) -> pd.DataFrame:
    """Run the protocol in every frame, length and context: one row a cell and prompt.

    kept: share of the words of greedy decoding's first ROUNDS x length tokens that the
    text so written holds, in order; kept_text: the same with the top tokens as text in
    the slot; kept_other: kept of the next prompt of another wording. right and
    right_greedy: whether the item's answer is said, NaN where there is none; greedy
    decodes as many tokens as the protocol makes forward calls. text, greedy: for eyes.
    """
    prompts, found = [item.prompt for item in items], []
    calls = {n: ROUNDS * (n + translation_tokens(n)) for n in lengths}
    longest = generate_concepts(lm, prompts, max(calls.values()), GREEDY).tokens
    first = write(lm, prompts, max(lengths))

    def decode(row: list[int], count: int) -> str:
        return lm.tokenizer.decode(row[:count], skip_special_tokens=True)

    for frame, n, context in cells(lm, lengths):
        how = prompts, frame, n, context
        texts = write_in_rounds(lm, *how, first=first)
        ceilings = write_in_rounds(lm, *how, "text", first)
        for b, item in enumerate(items):
            near = decode(longest[b], ROUNDS * n)
            far = decode(longest[b], calls[n])
            other = texts[_another(items, b)]
            answered = bool(item.accepted or item.required)
            cell = {"frame": frame, "n": n, "context": context, "prompt": b}
            cell |= {"template": item.template, "text": texts[b], "greedy": near}
            cell |= {"kept": words_kept(near, texts[b])}
            cell |= {"kept_text": words_kept(near, ceilings[b])}
            cell |= {"kept_other": words_kept(near, other)}
            cell |= {"right": float(is_right(texts[b], item)) if answered else None}
            cell |= {"right_greedy": float(is_right(far, item)) if answered else None}
            found.append(cell)
    return pd.DataFrame(found)


def cells(lm: LM, lengths: Sequence[int] = LENGTHS) -> Iterator[Cell]:
    """List the protocol's settings that a model can be asked in."""
    for frame in frames(lm):
        for n in lengths:
            for context in CONTEXTS:
                yield frame, n, context


def words_kept(whole: str, text: str) -> float:
    """Share of the words of `whole` that a text holds in the same order; 1 for none."""
    a, b = normalise_words(whole), normalise_words(text)
    return common_length(a, b) / len(a) if a else 1.0


def _another(items: Sequence[Item], b: int) -> int:
    """The next item of another template, all around; b itself where there is none."""
    turns = ((b + k) % len(items) for k in range(1, len(items) + 1))
    return next((j for j in turns if items[j].template != items[b].template), b)


def round_parts(rows: pd.DataFrame, seed: int = 0) -> dict[Cell, Parts]:
    """Estimate W5's parts: (frame, tokens a round, context) -> parts."""
    parts: dict[Cell, Parts] = {}
    for key, part in rows.groupby(["frame", "n", "context"], sort=False):
        own = {
            name: clustered(bootstrap, part.template, part[name], seed=seed)
            for name in ("kept", "kept_text", "kept_other")
        }
        pair = part.kept, part.kept_other
        over = clustered(paired_difference, part.template, *pair, seed=seed)
        own["kept_over_other"] = over
        asked = part.dropna(subset=["right"])
        for name in ("right", "right_greedy"):
            if len(asked):
                own[name] = share(asked[name], seed)  # capitals: one template on mini
        parts[key] = own  # type: ignore[index]
    return parts


def kept_by_length(found: dict[str, dict[Cell, Parts]]) -> pd.DataFrame:
    """List kept, its ceiling and its floor by length, model and frame, to draw.

    found: round_parts by model. The ceiling and the floor are those without context.
    """
    rows = []
    for model, parts in found.items():
        for (frame, n, context), own in parts.items():
            lines = {context: own["kept"]}
            if context == CONTEXTS[0]:
                lines |= {"top tokens as text (ceiling)": own["kept_text"]}
                lines |= {"another prompt's (floor)": own["kept_other"]}
            for line, e in lines.items():
                panel = f"{model}, {frame}"
                rows.append((panel, line, n, e.value, e.low, e.high, e.n))
    columns = ["model", "line", "n", "value", "low", "high", "count"]
    return pd.DataFrame(rows, columns=columns)


def examples(items: Sequence[Item], rows: pd.DataFrame, n: int = 3) -> pd.DataFrame:
    """Show the first prompt of each frame and context at `n` tokens a round."""
    shown = rows[rows.n == n].groupby(["frame", "context"], sort=False).head(1)
    texts = shown.set_index(["frame", "context"])[["greedy", "text"]]
    texts.insert(0, "prompt", [items[b].prompt for b in shown.prompt])
    return texts.map(lambda text: readable(text, 80))
