"""What the ways of reading gave back, scored.

    read_back, recall       R2: every way on every source, with floor and ceilings
    in_frames               R6: the same over all ways, on one scale
    table_rows, bar_rows    Table 4.2 in numbers, decoded whole and sliced
    examples                the best and the worst items of a way, as text
    members                 do likelier members get likelier answers?
    nearest_rows            R3: is the nearest token the top token?
    follow_up               R4: does what follows a concept token loop?
    cut_rows                R5: what `output[prompt_len:]` makes of an answer

Rows are plain dicts; numbers with intervals are stats.Estimate.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from experiments import hf_reference, prompts, scoring
from experiments.floors import random_like
from experiments.metrics import loops, rouge_l
from experiments.stats import Estimate, bootstrap, normalised_score
from experiments.translation import readers, stimuli

if TYPE_CHECKING:
    from experiments.translation.stimuli import Concepts
    from helpers.models import LM

# Qwen2.5 writes "Париж" (Paris) as three tokens; without the first it reads "ариж", the
# string of the write-up's 4.2. tests/experiments checks it with the tokenizer.
PARIS = ((16854, "П"), (125947, "ари"), (16964, "ж"))


def read_back(
    lm: LM, ways: list[str], given: dict[str, list], wanted: list[dict],
    max_new_tokens: int = 50,
) -> list[dict]:  # fmt: skip
    """Read every source of `given` (contents.sources) by every way.

    wanted: for each item the phrases that count as its content, gold answer, second
    and further members (contents.wanted). -> one row a way, source and item:
    prompt_length in tokens, text, sliced (the same after [prompt_length:]), and what
    was said: content, gold, second, further, content_sliced (0, 1; None: nothing to).
    """
    rows = []
    for way in ways:
        names, inputs = [], []
        for name, slots in given.items():
            slots = slots[:1] if name == "left out" else slots  # its rows are all alike
            names += [(name, b) for b in range(len(slots))]
            inputs += readers.fill_frame(lm, way, slots)
        got = readers.decode_rows(lm, inputs, max_new_tokens)
        for (name, b), *read in zip(names, got.prompt_lengths, got.texts, got.sliced):
            for i in range(len(wanted)) if name == "left out" else [b]:
                rows.append(
                    {"way": way, "source": name, "item": i} | _said(*read, wanted[i])
                )
    return rows


def _said(length, text, sliced, wanted):
    said = {
        k: int(scoring.contains_answer(text, w)) if w else None
        for k, w in wanted.items()
    }
    said["content_sliced"] = int(scoring.contains_answer(sliced, wanted["content"]))
    return {"prompt_length": length, "text": text, "sliced": sliced, **said}


def recall(rows: list[dict], way: str, seed: int = 0) -> dict[str, Estimate]:
    """One way's cell of Table 4.2 in numbers, with intervals over items.

    recall, recall_sliced: of the mixture's content; ceilings one_hot and ceiling (the
    content as text, with ceiling_sliced); floor: the highest of contents.FLOORS; gold,
    second, further: of the right answer and the lighter members, second_floor after
    other runners-up; empty, empty_sliced: shares of empty texts; prompt_length; and,
    where the frame is understood in text, scaled: recall between floor 0 and ceiling 1.
    """

    def column(source, name="content"):
        found = [r[name] for r in rows if r["way"] == way and r["source"] == source]
        return [value for value in found if value is not None]

    floor = max((column(f) for f in stimuli.FLOORS), key=np.mean)
    said = {
        "recall": column("mixture"),
        "recall_sliced": column("mixture", "content_sliced"),
        "one_hot": column("one-hot"), "ceiling": column("text"), "floor": floor,
        "ceiling_sliced": column("text", "content_sliced"),
        "replaced": column("runners-up replaced"),
        "second_floor": column("runners-up replaced", "second"),
        "prompt_length": column("mixture", "prompt_length"),
        "empty": [not text.strip() for text in column("mixture", "text")],
        "empty_sliced": [not text.strip() for text in column("mixture", "sliced")],
    }  # fmt: skip
    said |= {name: column("mixture", name) for name in ("gold", "second", "further")}
    out = {name: bootstrap(x, seed=seed) for name, x in said.items() if x}
    if out["ceiling"].low > out["floor"].high:
        out["scaled"] = normalised_score(
            said["recall"], floor, said["ceiling"], seed=seed
        )
    return out


def frame_score(rows: list[dict], seed: int = 0) -> Estimate | None:
    """Recall over the ways whose frame is understood: floor 0, ceiling 1; by item."""
    ways = dict.fromkeys(r["way"] for r in rows)
    ways = [way for way in ways if "scaled" in recall(rows, way, seed)]
    if not ways:
        return None

    def mean(source, way):
        part = [r for r in rows if r["way"] == way and r["source"] == source]
        return np.array([r["content"] for r in sorted(part, key=lambda r: r["item"])])

    floors = [max((mean(f, w) for f in stimuli.FLOORS), key=np.mean) for w in ways]
    mixed, text = (sum(mean(s, w) for w in ways) for s in ("mixture", "text"))
    return normalised_score(mixed, sum(floors), text, seed=seed)


def table_rows(cells: dict[tuple[str, str], dict]) -> list[dict]:
    """Table 4.2 with numbers for adjectives: one row a (model, way)."""
    return [
        {
            "model": model, "way": way, "tokens": round(cell["prompt_length"].value),
            "text": format_interval(cell["ceiling"]),
            "concept token": format_interval(cell["recall"]),
            "floor": round(cell["floor"].value, 2),
            "empty": round(cell["empty"].value, 2),
            "sliced": format_interval(cell["recall_sliced"]),
            "sliced, empty": round(cell["empty_sliced"].value, 2),
            "understood": "yes" if "scaled" in cell else "no",
        }
        for (model, way), cell in cells.items()
    ]  # fmt: skip


def format_interval(e: Estimate) -> str:
    """value (low–high), to two digits."""
    return f"{e.value:.2f} ({e.low:.2f}–{e.high:.2f})"


def bar_rows(cells: dict[tuple[str, str], dict]) -> list[dict]:
    """The same as tidy rows: model, way, what, value, low, high, n."""
    shown = {
        "content as text (ceiling)": "ceiling", "top token alone": "one_hot",
        "concept token": "recall", "concept token, sliced": "recall_sliced",
        "highest floor": "floor",
    }  # fmt: skip
    return [
        {"model": model, "way": way, "what": what, **estimate_columns(cell[part])}
        for (model, way), cell in cells.items()
        for what, part in shown.items()
    ]


def estimate_columns(e: Estimate) -> dict:
    """An estimate as columns value, low, high, n."""
    return {"value": e.value, "low": e.low, "high": e.high, "n": e.n}


def mean_columns(values, seed: int = 0) -> dict:
    """The mean of some values as the same columns."""
    return estimate_columns(bootstrap(list(values), seed=seed))


def examples(rows: list[dict], way: str, concepts: Concepts, tokenizer, n: int = 3):
    """The n best and n worst items of a way: what was fed and what came back, as text.

    Best: the content was said, and the words are most like those after the content as
    text. Equal items keep their order. -> rows rank, content, concept token (its three
    heaviest members), read back, sliced, as text.
    """

    def texts(source):
        return {r["item"]: r for r in rows if (r["way"], r["source"]) == (way, source)}

    mixed, plain = texts("mixture"), texts("text")
    like = {b: _like(mixed[b], plain[b]) for b in mixed}
    order = sorted(mixed, key=lambda b: (-mixed[b]["content"], -like[b]))
    picked = [(f"best {k + 1}", b) for k, b in enumerate(order[:n])]
    picked += [(f"worst {k + 1}", b) for k, b in enumerate(order[: -n - 1 : -1])]
    out = []
    for rank, b in picked:
        p, i = concepts.probs[b], concepts.indices[b]
        heavy = zip(p[0, :3].tolist(), i[0, :3].tolist())
        mix = ", ".join(f"{w:.0%}{tokenizer.decode([k])}" for w, k in heavy)
        more = f"; {len(p) - 1} more vectors" if len(p) > 1 else ""
        out.append({
            "rank": rank, "content": concepts.texts[b], "concept token": mix + more,
            "read back": mixed[b]["text"], "sliced": mixed[b]["sliced"],
            "as text": plain[b]["text"],
        })  # fmt: skip
    return out


def _like(a, b):
    """ROUGE-L of two readings' words."""
    a, b = scoring.normalise_words(a["text"]), scoring.normalise_words(b["text"])
    number = {word: i for i, word in enumerate(dict.fromkeys(a + b))}
    return rouge_l([number[w] for w in a], [number[w] for w in b])


def member_ranks(
    lm: LM, way: str, concepts: Concepts, seed: int = 0, least: float = 0.02
) -> list[dict]:
    """Do likelier members get likelier answers? For single vectors of 3 to 6 members.

    A member's answer is the first token the way gives for that member alone. -> one row
    an item: rank correlation of the members' weights with the probability of their
    answers after the mixture, after its top token alone, and after another prompt's.
    """
    picked = []
    for b, (p, i) in enumerate(zip(concepts.probs, concepts.indices)):
        n = min(int((p[0] >= least).sum()), 6)
        if len(p) == 1 and n >= 3:
            picked.append((b, p[0, :n], i[0, :n]))
    if len({concepts.texts[b] for b, *_ in picked}) < 2:
        return []
    near = stimuli.mismatched_indices([concepts.texts[b] for b, *_ in picked], seed)
    whole = [concepts.vectors[b] for b, *_ in picked]
    alone = [lm.embed[i][:, None] for _, _, i in picked]
    lines = readers.first_token_probs(lm, way, whole + [x[0] for x in alone])
    answers = readers.first_token_probs(lm, way, list(torch.cat(alone))).argmax(-1)
    rows = []
    for n, (b, p, i) in enumerate(picked):
        said, answers = answers[: len(i)], answers[len(i) :]
        if len(set(said.tolist())) < len(i):
            continue  # two members with one answer: the frame cannot tell them apart
        kinds = {"mixture": n, "top token": len(picked) + n, "other prompt": near[n]}
        corr = {k: _ranks(p, lines[row][said]) for k, row in kinds.items()}
        rows.append({"way": way, "item": b, "members": len(i), **corr})
    return rows


def _ranks(a, b):
    """Spearman's rank correlation of two tensors without ties."""
    a, b = (x.argsort().argsort().double() for x in (a, b))
    return torch.corrcoef(torch.stack([a, b]))[0, 1].item()


def nearest_rows(lm: LM, concepts: Concepts, metrics, seed: int = 0) -> list[dict]:
    """R3: is the nearest token the top token? One row a concept token and metric.

    random: the same asked of a random vector of equal norm, the floor.
    """
    probs, indices = torch.cat(concepts.probs), torch.cat(concepts.indices)
    vectors = torch.cat(concepts.vectors)
    noise = random_like(vectors, torch.Generator().manual_seed(seed))
    owner = [b for b, p in enumerate(concepts.probs) for _ in p]
    rows = []
    for metric in metrics:
        hit, chance = (
            (readers.nearest_token(lm, x, metric) == indices[:, 0]).tolist()
            for x in (vectors, noise)
        )
        rows += [
            {"metric": metric, "item": b, "p_max": p, "match": int(h), "random": int(c)}
            for b, p, h, c in zip(owner, probs[:, 0].tolist(), hit, chance)
        ]
    return rows


def follow_up(
    lm: LM, prompts: list[str], concepts: Concepts, max_new_tokens: int = 50,
    seed: int = 0,
) -> list[dict]:  # fmt: skip
    """R4: what follows each, and whether it loops (stats.loops): rows fed, item, ...

    fed: the prompt as text; one and two concept tokens alone; the top token alone; a
    random vector of equal norm; and the concept token re-fed at every step.
    """
    one = [v[:1] for v in concepts.vectors]
    draw = torch.Generator().manual_seed(seed)
    fed = {
        "prompt as text": prompts, "one concept token": one,
        "two concept tokens": [v[:2] for v in concepts.vectors],
        "top token alone": [lm.embed[i[:1, 0]] for i in concepts.indices],
        "random vector": [random_like(v, draw) for v in one],
    }  # fmt: skip
    ids = {name: readers.direct(lm, x, max_new_tokens).ids for name, x in fed.items()}
    ids["one, re-fed each step"] = hf_reference.refeed_each_step(
        lm, torch.cat(one), max_new_tokens
    )
    return [
        {"fed": name, "item": b, "loops": int(loops(row)),
         "text": lm.tokenizer.decode(row, skip_special_tokens=True)}
        for name, rows in ids.items() for b, row in enumerate(rows)
    ]  # fmt: skip


def cut_rows(lm: LM, vectors: torch.Tensor, max_new_tokens: int = 20) -> list[dict]:
    """R5: answers to one-vector prompts (B,D), and what is left of them at offsets 0-3.

    The answer is what the loop reads (greedy, whole); the output is what
    `model.generate(inputs_embeds=...)` returns, decoded from each offset on: offset 1
    is `output[prompt_len:]`. Rows for answers of two tokens or more: item, answer,
    beheaded (the answer without its first token), offset, text, cut: the two agree.
    """
    answers = readers.decode_rows(lm, list(vectors[:, None]), max_new_tokens).ids
    outputs = hf_reference.generate_from_vectors(lm, vectors[:, None], max_new_tokens)

    def show(ids):
        return lm.tokenizer.decode(ids, skip_special_tokens=True)

    return [
        {"item": b, "offset": k, "answer": show(ids), "beheaded": show(ids[1:]),
         "text": show(out[k:]), "cut": int(show(out[k:]) == show(ids[1:]))}
        for b, (ids, out) in enumerate(zip(answers, outputs))
        if show(ids[1:]).strip()
        for k in range(4)
    ]  # fmt: skip


def translate_rows(lm: LM, items, max_new_tokens: int = 50, seed: int = 0) -> dict:
    """R4: Spanish sentences after the write-up's instruction, as plain text.

    -> right, other: whether what follows says the sentence's translation, and another
    sentence's (the floor).
    """
    text = prompts.FRAMES["instruction"].text
    asked = [text.replace("{x}", item.prompt) for item in items]
    said = readers.direct(lm, asked, max_new_tokens).texts
    order = stimuli.mismatched_indices([item.gold for item in items], seed)
    pairs = [(t, item.gold, items[j].gold) for t, item, j in zip(said, items, order)]
    return {
        "right": [int(scoring.contains_answer(t, (gold,))) for t, gold, _ in pairs],
        "other": [int(scoring.contains_answer(t, (far,))) for t, _, far in pairs],
    }


def paris_pieces(tokenizer) -> tuple:
    """How a tokenizer writes "Париж": (id, text) of each token.

    Only Qwen2.5's is what the write-up's output came from: any other gives PARIS, the
    stated fact.
    """
    ids = tokenizer("Париж", add_special_tokens=False)["input_ids"]
    if ids != [i for i, _ in PARIS]:
        return PARIS
    return tuple((i, tokenizer.decode([i])) for i in ids)
