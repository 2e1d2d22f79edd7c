"""What the ways of reading gave back, scored (R2, R3).

    read_back, read_every_way   every way on every condition, one row a reading
    recall, recall_by_way       R2: shares of contents said, with floor and ceilings
    unseen_parts, unseen_table  R2: words that training kept out of a frame
    recall_table, recall_bars   Table 4.2 in numbers, decoded whole and sliced
    member_table                what else was said: right answers and lighter members
    examples, example_table     the best and the worst items of a way, as text
    member_ranks, rank_table    do likelier members get likelier answers?
    nearest_matches             R3: is the nearest token the top token?
    nearest_shares, nearest_parts   the same by bin of p_max, and what R3 is judged by
    share_by                a share by group, as a frame

A row is a plain dict; a cell is one model and way, with its parts: name -> Estimate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from experiments import scoring
from experiments.floors import random_like
from experiments.frames import fill_frame
from experiments.metrics import rouge_l
from experiments.prompts import FRAMES
from experiments.stats import bootstrap, share
from experiments.translation import readers, stimuli
from experiments.translation.in_loop import BINS, Parts, bin_names, interval_text
from harness.safe_text import readable
from helpers.mixture import mix

if TYPE_CHECKING:
    from collections.abc import Callable

    from experiments.prompts import Item
    from experiments.translation.stimuli import Concept, Suites
    from helpers.models import LM

    Written = dict[str, tuple[list[Item], list[Concept]]]  # by model

Cells = dict[tuple[str, str], Parts]  # by model and way

BARS = {  # of the figure, and the parts they show
    "content as text (ceiling)": "ceiling",
    "top token alone": "recall_top",
    "concept token": "recall",
    "concept token, sliced": "recall_sliced",
    "highest floor": "floor",
}
MEMBER_PARTS = ("recall", "gold", "second", "second_floor", "further", "replaced")
LEAST_UNSEEN = 10  # items that make a cell of words held out of a frame
METRICS = ("dot", "cosine", "l2", "centred")


def share_by(
    frame: pd.DataFrame, keys: list[str], column: str, seed: int = 0
) -> pd.DataFrame:
    """Estimate the share of ones in a column by group: keys, value, low, high, n."""
    groups = frame.groupby(keys, observed=True, sort=False)[column]
    rows = [
        dict(zip(keys, key)) | share(values, seed).columns() for key, values in groups
    ]
    return pd.DataFrame(rows)


def read_back(
    lm: LM,
    ways: list[str],
    conditions: dict[str, list],
    answers: list[dict],
    max_new_tokens: int = 50,
) -> list[dict]:
    """Read every condition (stimuli.conditions) by every way.

    answers: for each item the phrases that count as its content, gold answer, second
    and further members (stimuli.reference_answers). -> one row a way, source and item:
    prompt_length in tokens, text, sliced (the same after [prompt_length:]), and what
    was said: content, gold, second, further, content_sliced (0, 1; None: nothing to).
    """
    rows = []
    for way in ways:
        places, inputs = [], []
        for source, slots in conditions.items():
            slots = slots[:1] if source == "left out" else slots  # its rows are alike
            places += [(source, b) for b in range(len(slots))]
            inputs += fill_frame(lm, way, slots)
        reading = readers.decode_rows(lm, inputs, max_new_tokens)
        read = zip(places, reading.prompt_lengths, reading.texts, reading.sliced)
        for (source, b), *columns in read:
            rows += [
                {"way": way, "source": source, "item": i}
                | _score_reading(*columns, answers[i])
                for i in (range(len(answers)) if source == "left out" else [b])
            ]
    return rows


def _score_reading(length: int, text: str, sliced: str, answers: dict) -> dict:
    """Columns of one reading: what came back, and which answers it says."""
    said = {
        name: int(scoring.contains_answer(text, phrases)) if phrases else None
        for name, phrases in answers.items()
    }
    said["content_sliced"] = int(scoring.contains_answer(sliced, answers["content"]))
    return {"prompt_length": length, "text": text, "sliced": sliced, **said}


def read_every_way(
    lms: dict[str, LM],
    asked: Suites,
    written: Written,
    max_new_tokens: int = 50,
    seed: int = 0,
) -> dict[str, list[dict]]:
    """read_back for each model: what it has written, in every frame it has.

    Of an untrained model of its class, what the same weights and tokens give there.
    """
    rows = {}
    for name, lm in lms.items():
        items, concepts = written[name]
        answers = stimuli.reference_answers(lm, asked, items, concepts)
        conditions = stimuli.conditions(lm, concepts, seed)
        ways = readers.available_ways(lm)
        rows[name] = read_back(lm, ways, conditions, answers, max_new_tokens)
        blank = stimuli.untrained_model(lm, seed)
        fed = {
            "untrained model": [mix(c.probs, c.indices, blank.embed) for c in concepts]
        }
        rows[name] += read_back(blank, ways, fed, answers, max_new_tokens)
    return rows


def recall(rows: list[dict], way: str, seed: int = 0) -> Parts:
    """Estimate one way's cell of Table 4.2 in numbers, with intervals over items.

    recall, recall_sliced: of the mixture's content; ceilings recall_top (the top
    token's own embedding) and ceiling (the content as text, with ceiling_sliced);
    floor: the highest of stimuli.FLOORS; gold, second, further: of the right answer and
    the lighter members, second_floor after other runners-up; empty, empty_sliced:
    shares of empty texts; prompt_length.
    """

    def column(source, name="content"):
        return _column(rows, way, source, name)

    said = {
        "recall": column("mixture"),
        "recall_sliced": column("mixture", "content_sliced"),
        "recall_top": column("top token"),
        "ceiling": column("text"),
        "floor": _highest_floor(rows, way),
        "ceiling_sliced": column("text", "content_sliced"),
        "replaced": column("runners-up replaced"),
        "second_floor": column("runners-up replaced", "second"),
        "empty": [not text.strip() for text in column("mixture", "text")],
        "empty_sliced": [not text.strip() for text in column("mixture", "sliced")],
    }
    said |= {name: column("mixture", name) for name in ("gold", "second", "further")}
    length = bootstrap(column("mixture", "prompt_length"), seed=seed)
    shares = {name: share(x, seed) for name, x in said.items() if x}
    return shares | {"prompt_length": length}


def recall_by_way(readings: dict[str, list[dict]], seed: int = 0) -> Cells:
    """recall of each model and way it was read by."""
    return {
        (name, way): recall(rows, way, seed)
        for name, rows in readings.items()
        for way in dict.fromkeys(r["way"] for r in rows)
    }


def unseen_parts(
    lms: dict[str, LM],
    asked: Suites,
    held_in_frame: Callable[[str, str], bool] | None,
    n: int,
    max_new_tokens: int = 50,
    seed: int = 0,
) -> dict[tuple[str, str], Parts | str]:
    """Recall contents that training kept out of a frame: (model, way) -> parts.

    recall_unseen: of at most n mixtures of one vector whose top token is such a word;
    ceiling_unseen: of the same as text. held_in_frame(way, word): whether it was kept
    out; None where nobody knows. In place of parts, the reason why there are none.
    """
    found: dict[tuple[str, str], Parts | str] = {}
    prompts = [item.prompt for item in asked["ambiguous"] + asked["capitals"]]
    for name, lm in lms.items():
        written = []
        if held_in_frame:
            one = stimuli.write_concepts(lm, prompts, [1] * len(prompts))
            written = [c for c in one if c.probs[0, 0] < stimuli.MIXED]
        for way in readers.available_ways(lm):
            held = [c for c in written if held_in_frame(way, c.text.strip())][:n]
            if held_in_frame is None:
                found[name, way] = "nobody knows which words this model saw in a frame"
            elif len(held) < LEAST_UNSEEN:
                found[name, way] = f"{len(held)} words kept out of this frame came up"
            else:
                fed = {"mixture": [c.vectors for c in held]}
                fed["text"] = [c.text for c in held]
                answers = [
                    {"content": scoring.acceptable_answers(c.text, asked)} for c in held
                ]
                rows = read_back(lm, [way], fed, answers, max_new_tokens)
                found[name, way] = {
                    f"{part}_unseen": share(_column(rows, way, source), seed)
                    for part, source in (("recall", "mixture"), ("ceiling", "text"))
                }
    return found


def unseen_table(cells: dict[tuple[str, str], Parts | str]) -> pd.DataFrame:
    """unseen_parts with n, one row a cell that has them."""
    shown = {
        cell: {name: f"{interval_text(e)}, n = {e.n}" for name, e in parts.items()}
        for cell, parts in cells.items()
        if not isinstance(parts, str)
    }
    return pd.DataFrame(shown).T


def _column(rows: list[dict], way: str, source: str, name: str = "content") -> list:
    """A column of one way's readings of one source, in item order, without None."""
    found = (r[name] for r in rows if (r["way"], r["source"]) == (way, source))
    return [value for value in found if value is not None]


def _highest_floor(rows: list[dict], way: str) -> list[int]:
    """Contents said after that one of stimuli.FLOORS which says the most."""
    return max((_column(rows, way, floor) for floor in stimuli.FLOORS), key=np.mean)


def recall_table(cells: Cells) -> pd.DataFrame:
    """Table 4.2 with numbers for adjectives: one row a model and way."""
    rows = [
        {
            "model": model,
            "way": way,
            "tokens": round(cell["prompt_length"].value),
            "text": interval_text(cell["ceiling"]),
            "concept token": interval_text(cell["recall"]),
            "top token": round(cell["recall_top"].value, 2),
            "floor": round(cell["floor"].value, 2),
            "empty": round(cell["empty"].value, 2),
            "sliced": interval_text(cell["recall_sliced"]),
            "sliced, empty": round(cell["empty_sliced"].value, 2),
            "understood": "yes" if cell["ceiling"].low > cell["floor"].high else "no",
        }
        for (model, way), cell in cells.items()
    ]
    return pd.DataFrame(rows)


def recall_bars(cells: Cells) -> pd.DataFrame:
    """The same as tidy rows, one a bar: model, way, what, value, low, high, n."""
    rows = [
        {"model": model, "way": way, "what": what, **cell[part].columns()}
        for (model, way), cell in cells.items()
        for what, part in BARS.items()
    ]
    return pd.DataFrame(rows)


def member_table(cells: Cells) -> pd.DataFrame:
    """Recall of content, right answer and lighter members, one row a cell."""
    shown = {
        cell: {k: interval_text(parts[k]) for k in MEMBER_PARTS if k in parts}
        for cell, parts in cells.items()
    }
    return pd.DataFrame(shown).T


def examples(
    lm: LM, rows: list[dict], way: str, concepts: list[Concept], n: int = 3
) -> list[dict]:
    """Pick the n best and n worst items of a way: what was fed, what came back.

    Best: the content was said, and the words are most like those after the content as
    text. Equal items keep their order. -> rows rank, content, concept token (its three
    heaviest members), read back, sliced, as text.
    """

    def by_item(source):
        return {r["item"]: r for r in rows if (r["way"], r["source"]) == (way, source)}

    mixed, plain = by_item("mixture"), by_item("text")
    like = {b: _likeness(mixed[b]["text"], plain[b]["text"]) for b in mixed}
    order = sorted(mixed, key=lambda b: (-mixed[b]["content"], -like[b]))
    picked = [(f"best {k + 1}", b) for k, b in enumerate(order[:n])]
    picked += [(f"worst {k + 1}", b) for k, b in enumerate(order[: -n - 1 : -1])]
    return [
        {
            "rank": rank,
            "content": concepts[b].text,
            "concept token": _heaviest_members(lm, concepts[b]),
            "read back": mixed[b]["text"],
            "sliced": mixed[b]["sliced"],
            "as text": plain[b]["text"],
        }
        for rank, b in picked
    ]


def _heaviest_members(lm: LM, concept: Concept) -> str:
    """The three heaviest members of the first vector, and how many vectors follow."""
    probs, indices = concept.probs[0, :3].tolist(), concept.indices[0, :3].tolist()
    tokens = map(lm.tokenizer.decode, indices)
    mix = ", ".join(f"{p:.0%}{token}" for p, token in zip(probs, tokens))
    more = len(concept.probs) - 1
    return mix + (f"; {more} more vectors" if more else "")


def _likeness(a: str, b: str) -> float:
    """ROUGE-L of two texts' words."""
    return rouge_l(scoring.normalise_words(a), scoring.normalise_words(b))


def example_table(
    lms: dict[str, LM], readings: dict[str, list[dict]], written: Written
) -> pd.DataFrame:
    """examples of each model by each of the write-up's ways, made safe to show."""
    rows = [
        {"model": name, "way": way, **row}
        for name, lm in lms.items()
        for way in readers.available_ways(lm)
        if FRAMES[way].source.startswith("write-up")
        for row in examples(lm, readings[name], way, written[name][1])
    ]
    frame = pd.DataFrame(rows).set_index(["model", "way", "rank"])
    return frame.map(lambda text: readable(text, 48))


def member_ranks(
    lm: LM, way: str, concepts: list[Concept], seed: int = 0, least: float = 0.02
) -> list[dict]:
    """Correlate weights with answers, in single vectors of 3 to 6 members.

    A member's answer is the first token the way gives for that member alone; members
    count from a weight of `least`. -> one row an item: rank correlation of the weights
    with the probability of the answers after the mixture, after its top token alone,
    and after another prompt's mixture.
    """
    picked = []
    for b, c in enumerate(concepts):
        n = min(int((c.probs[0] >= least).sum()), 6)
        if len(c.probs) == 1 and n >= 3:
            picked.append((b, c.probs[0, :n], c.indices[0, :n]))
    texts = [concepts[b].text for b, *_ in picked]
    if len(set(texts)) < 2:
        return []
    near = stimuli.mismatched_indices(texts, seed)
    mixtures = [concepts[b].vectors for b, *_ in picked]
    alone = [lm.embed[i][:, None] for _, _, i in picked]
    after = readers.first_token_probs(lm, way, mixtures + [x[0] for x in alone])
    answers = readers.first_token_probs(lm, way, list(torch.cat(alone))).argmax(-1)
    rows = []
    for n, (b, p, i) in enumerate(picked):
        own, answers = answers[: len(i)], answers[len(i) :]
        if len(set(own.tolist())) < len(i):
            continue  # two members with one answer: the frame cannot tell them apart
        fed = {"mixture": n, "top token": len(picked) + n, "other prompt": near[n]}
        found = {k: _rank_correlation(p, after[row][own]) for k, row in fed.items()}
        rows.append({"way": way, "item": b, "members": len(i), **found})
    return rows


def _rank_correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Spearman's rank correlation of two tensors without ties."""
    a, b = (x.argsort().argsort().double() for x in (a, b))
    return torch.corrcoef(torch.stack([a, b]))[0, 1].item()


def rank_table(
    lms: dict[str, LM], asked: Suites, n: int, least: int = 10, seed: int = 0
) -> pd.DataFrame:
    """Mean member_ranks of n nouns at most, by model and way; from `least` items on."""
    prompts = [item.prompt for item in asked["ambiguous"][::2][:n]]
    means = {}
    for name, lm in lms.items():
        concepts = stimuli.write_concepts(lm, prompts, [1] * len(prompts))
        for way in readers.available_ways(lm):
            ranks = member_ranks(lm, way, concepts, seed)
            if len(ranks) >= least:
                fed = pd.DataFrame(ranks)[["mixture", "top token", "other prompt"]]
                found = {k: bootstrap(x, seed=seed) for k, x in fed.items()}
                texts = {k: interval_text(e) for k, e in found.items()}
                means[name, way] = texts | {"n": len(ranks)}
    return pd.DataFrame(means).T


def nearest_matches(
    lms: dict[str, LM], asked: Suites, steps: int, seed: int = 0
) -> pd.DataFrame:
    """Ask whether the nearest token is the top token, by each of METRICS.

    One row a model, metric and concept token, `steps` after each prompt: model, metric,
    item, p_max, match, bin; random: the same of a random vector of equal norm.
    """
    prompts = [item.prompt for item in asked["ambiguous"] + asked["capitals"]]
    frames = []
    for name, lm in lms.items():
        concepts = stimuli.write_concepts(lm, prompts, [steps] * len(prompts))
        vectors = torch.cat([c.vectors for c in concepts])
        noise = random_like(vectors, torch.Generator().manual_seed(seed))
        top = torch.cat([c.indices[:, 0] for c in concepts])
        facts = {
            "item": [b for b, c in enumerate(concepts) for _ in c.probs],
            "p_max": torch.cat([c.probs[:, 0] for c in concepts]).tolist(),
        }
        for metric in METRICS:
            hits = {
                column: (readers.nearest_token(lm, x, metric) == top).int().tolist()
                for column, x in (("match", vectors), ("random", noise))
            }
            frames.append(
                pd.DataFrame({"model": name, "metric": metric, **facts, **hits})
            )
    frame = pd.concat(frames, ignore_index=True)
    return frame.assign(bin=pd.cut(frame["p_max"], BINS, labels=bin_names()))


def nearest_shares(matches: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Share of matches by model, metric and bin of p_max, low to high."""
    shares = share_by(matches, ["model", "metric", "bin"], "match", seed)
    return shares.sort_values("bin", kind="stable")


def nearest_parts(matches: pd.DataFrame, seed: int = 0) -> dict[str, Parts]:
    """R3's parts where one token has most of the weight: "model, metric" -> parts."""
    cells = {}
    heavy = matches[matches["p_max"] > 0.5]
    for (name, metric), part in heavy.groupby(["model", "metric"]):
        means = part.groupby("item")[["match", "random"]].mean()
        cells[f"{name}, {metric}"] = {
            "match_high": bootstrap(means["match"], seed=seed),
            "match_random": bootstrap(means["random"], seed=seed),
        }
    return cells
