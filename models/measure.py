"""Measure the mini models and write their card: `python -m models.measure`.

Everything the card (models/README.md) says is computed here and kept in
models/measured.csv, one row a model, seed and measure. Seeds whose weights are not at
hand (only seed 0 is committed) keep the rows they have.
"""

import argparse
import json
import random
from itertools import product
from pathlib import Path

import pandas as pd
import torch

from experiments import metrics, stats
from experiments.prompts import FRAMES, MEANINGS, SUITES
from harness.files import write_whole
from helpers import continue_from, load, next_logits, prompt_embeds
from models import chat as chat_docs
from models import corpus, english, world
from models.facts import CAPITALS

HERE = Path(__file__).resolve().parent
COLUMNS = ["model", "seed", "measure", "value", "low", "high", "n", "bar"]
BARS = {
    "next-token JS to the truth (bits)": "<= 0.02",
    "capitals, unseen fact x wording": ">= 0.98",
    "sums, unseen fact x wording": ">= 0.98",
    "capitals in chat, unseen fact x wording": ">= 0.98",
    "sums in chat, unseen fact x wording": ">= 0.98",
    "Spanish to English, unseen sentences": ">= 0.95",
    "English to Spanish, unseen sentences": ">= 0.95",
}


def folder_of(model: str, seed: int) -> Path:
    """Where `models.train` puts this model: seed 0 is the committed one."""
    return HERE / model if seed == 0 else HERE / "_work" / f"seed{seed}" / model


def two_likeliest(prompt: str) -> tuple[str, str, float, float]:
    """The two likeliest next words of a prompt, p_max, and the true Jensen-Shannon
    divergence (bits) between what follows the one and the other."""
    words = {}
    for text, p in corpus.true_continuations(prompt).items():
        word = " " + text.split()[0].rstrip(".,;")
        words[word] = words.get(word, 0.0) + p
    first, second = sorted(words, key=words.get, reverse=True)[:2]
    after = [corpus.true_continuations(prompt + x) for x in (first, second)]
    keys = sorted({_head(k) for d in after for k in d})
    rows = torch.zeros(2, len(keys))
    for i, d in enumerate(after):
        for text, p in d.items():
            rows[i, keys.index(_head(text))] += p
    return first, second, words[first], float(metrics.js_bits(rows[0], rows[1]))


def _head(text: str) -> str:
    return text.split()[0] if text[:1] == " " else text[:1]


def ambiguous() -> list[str]:
    """Suite prompts with p_max .3 to .8 whose two continuations differ (>= .3 bits)."""
    chosen = []
    for item in SUITES["ambiguous"] + SUITES["capitals"]:
        *_, p_max, distance = two_likeliest(item.prompt)
        if 0.3 <= p_max <= 0.8 and distance >= 0.3:
            chosen.append(item.prompt)
    return chosen


def divergences(lm, prompts) -> list[float]:
    """JS (bits) between the model's next-token distribution and the true one."""
    out = []
    for prompt in prompts:
        logits = next_logits(lm, *prompt_embeds(lm, [prompt]))
        truth = corpus.true_next(lm.tokenizer, prompt)
        guess = logits[0].softmax(-1)[: len(truth)]
        out.append(float(metrics.js_bits(guess, truth)))
    return out


def answers(lm, prompts, tokens=24) -> list[str]:
    """Greedy continuations, in batches of prompts of like length."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    out = [""] * len(prompts)
    for start in range(0, len(order), 64):
        rows = order[start : start + 64]
        embeds, mask = prompt_embeds(lm, [prompts[i] for i in rows])
        for i, text in zip(rows, continue_from(lm, embeds, mask, tokens), strict=True):
            out[i] = text.strip()
    return out


def plain_facts(split: str):
    """(capitals, sums) of the plain wordings as (prompt, answer), seen or unseen."""
    unseen = split == "unseen"
    begin = {
        "called": "The capital city of {} is called",
        "in": "{} has its capital in",
        "seat": "The seat of government of {} is",
    }
    capitals = [
        (text.format(land), city)
        for (how, text), (land, city) in product(begin.items(), CAPITALS.items())
        if english.capital_held(land, how) is unseen
    ]
    frames = {"sum": "The sum of {} and {} is", "make": "{} and {} make",
              "gives": "Adding {} to {} gives"}  # fmt: skip
    sums = []
    for (how, text), style in product(frames.items(), ("digits", "words")):
        for a, b in product(range(21), range(21)):
            if english.sum_held(a, b, how, style) is unseen:
                x, y, c = (english.number(v, style) for v in (a, b, a + b))
                x = x.capitalize() if how == "make" else x
                sums.append((text.format(x, y), c))
    return capitals, sums


def chat_facts(split: str):
    """(capitals, sums) of the chat wordings as (instruction, answer)."""
    unseen = split == "unseen"
    capitals = [
        (chat_docs.CHAT_CAPITALS[k].format(land), f"{city}.")
        for k, (land, city) in product(range(1, 4), CAPITALS.items())
        if chat_docs.chat_capital_held(land, k) is unseen
    ]
    sums = [
        (chat_docs.CHAT_SUMS[k].format(a, b), f"{a + b}.")
        for k, a, b in product(range(1, 4), range(21), range(21))
        if chat_docs.chat_sum_held(a, b, k) is unseen
    ]
    return capitals, sums


def _share(lm, pairs, match, chat=False, seed=0, tokens=24):
    prompts = [chat_docs.chat_text(p) if chat else p for p, _ in pairs]
    found = answers(lm, prompts, tokens)
    hits = [float(match(f, a)) for f, (_, a) in zip(found, pairs, strict=True)]
    return stats.bootstrap(hits, seed=seed)


def starts(found: str, answer: str) -> bool:
    """Whether a plain continuation begins with the answer as a whole word."""
    words = found.removeprefix("exactly ").split(".")[0].split(",")[0]
    return words.strip() == answer


def exact(found: str, answer: str) -> bool:
    """Whether a chat answer is the answer, to the letter."""
    return found == answer


def _some(pairs, n, seed=0):
    return random.Random(seed).sample(pairs, min(n, len(pairs)))


def frame_rows(lm, chat: bool):
    """Recall of each frame over content words, and its floor: another word's answer.

    Apart beside them: the words that training kept out of this frame.
    """
    words = [x for x in MEANINGS if x not in CAPITALS]
    frames = {
        "patchscopes": (FRAMES["patchscopes"].text, {x: x for x in words}),
        "completion": (FRAMES["completion"].text, MEANINGS),
        "instruction": (
            FRAMES["instruction"].text,
            {es: en for es, en in world.SPANISH.items()},
        ),
        "selfie": (FRAMES["selfie"].text, {x: x for x in words}),
    }
    for name, (text, gold) in frames.items():
        if FRAMES[name].chat and not chat:
            continue
        prompts = [text.format(x=x) for x in gold]
        if FRAMES[name].chat:
            prompts = [chat_docs.chat_text(p) for p in prompts]
        found = answers(lm, prompts, 12)
        keys = list(gold)
        hit = [float(gold[k] in f) for k, f in zip(keys, found, strict=True)]
        moved = keys[1:] + keys[:1]
        miss = [float(gold[k] in f) for k, f in zip(moved, found, strict=True)]
        unseen = [chat_docs.held_in_frame(name, k) for k in keys]
        held = [h for h, out in zip(hit, unseen, strict=True) if out]
        yield f"frame {name}: text ceiling", stats.bootstrap(hit)
        yield f"frame {name}: text ceiling, unseen word", stats.bootstrap(held)
        yield f"frame {name}: floor", stats.bootstrap(miss)


def long_pairs(n: int = 100) -> list[tuple[str, str]]:
    """Distinct instructions with long answers, of the wordings that training had."""
    rng, found = random.Random(4), {}
    while len(found) < n:
        asked, answer = chat_docs.long_pair(rng)
        found[asked] = answer
    return list(found.items())


def lengths(lm, chat: bool) -> dict:
    """Median prompt and answer lengths in tokens."""
    count = lambda t: len(lm.tokenizer(t)["input_ids"])  # noqa: E731
    middle = lambda xs: float(pd.Series(xs).median())  # noqa: E731
    plain = [
        count(i.prompt) for k in ("ambiguous", "capitals", "sums") for i in SUITES[k]
    ]
    out = {"plain prompt length (tokens, median)": middle(plain)}
    if chat:
        pairs = [(i.prompt, i.gold) for i in SUITES["instructions"]]
        out["chat prompt length (tokens, median)"] = middle(
            [count(chat_docs.chat_text(p)) for p, _ in pairs]
        )
        out["chat answer length (tokens, median)"] = middle(
            [count(a) for _, a in pairs]
        )
        longer = [count(a) - count(chat_docs.chat_text(p)) for p, a in long_pairs()]
        out["long answers: answer less prompt (tokens, median)"] = middle(longer)
    return out


def measure(model: str, seed: int) -> list[dict]:
    """All measures of one trained model."""
    lm = load(str(folder_of(model, seed)), device="cpu")
    chat = model == "mini-qwen2"
    rows = []

    def add(name, e):
        if not isinstance(e, stats.Estimate):
            e = stats.Estimate(float(e), float("nan"), float("nan"), 1)
        numbers = (e.value, e.low, e.high, e.n)
        row = (model, seed, name, *numbers, BARS.get(name, ""))
        rows.append(dict(zip(COLUMNS, row)))

    suite = [
        i.prompt
        for k in ("writeup", "ambiguous", "capitals", "sums")
        for i in SUITES[k]
    ]
    add("next-token JS to the truth (bits)", stats.bootstrap(divergences(lm, suite)))
    chosen = ambiguous()
    after = [p + w for p in chosen for w in two_likeliest(p)[:2]]
    add(
        "JS after the two likeliest words (bits)",
        stats.bootstrap(divergences(lm, after)),
    )
    for split in ("unseen", "seen"):
        capitals, sums = plain_facts(split)
        if chat:
            more = chat_facts(split)
            add(f"capitals in chat, {split} fact x wording",
                _share(lm, _some(more[0], 200), exact, True))  # fmt: skip
            add(f"sums in chat, {split} fact x wording",
                _share(lm, _some(more[1], 200), exact, True))  # fmt: skip
        add(f"capitals, {split} fact x wording", _share(lm, capitals, starts))
        add(f"sums, {split} fact x wording", _share(lm, _some(sums, 400), starts))
        three = [
            (f"{a} plus {b} plus {d} equals", str(a + b + d))
            for a, b, d in product(range(11), repeat=3)
            if english.three_held(a, b, d) is (split == "unseen")
        ]
        add(f"three-term sums, {split} facts", _share(lm, _some(three, 300), starts))
    if chat:
        rng = random.Random(3)
        pairs = [chat_docs.sentence_pair(rng, held=True) for _ in range(200)]
        to_english = [(f"Please translate the following: {es}", en) for en, es in pairs]
        to_spanish = [(f"Translate to Spanish: {en}", es) for en, es in pairs]
        add("Spanish to English, unseen sentences", _share(lm, to_english, exact, True))
        add("English to Spanish, unseen sentences", _share(lm, to_spanish, exact, True))
        gold = [(i.prompt, i.gold) for i in SUITES["instructions"]]
        add("instruction suite, exact", _share(lm, gold, exact, True))
        add("long answers, exact", _share(lm, long_pairs(), exact, True, tokens=160))
    for name, estimate in frame_rows(lm, chat):
        add(name, estimate)
    for name, value in lengths(lm, chat).items():
        add(name, value)
    add("parameters (millions)", sum(p.numel() for p in lm.model.parameters()) / 1e6)
    size = (folder_of(model, seed) / "model.safetensors").stat().st_size
    add("weights (MB)", size / 1e6)
    run = HERE / "_work" / f"{model}-{seed}" / "run.json"
    if run.exists():
        told = json.loads(run.read_text())
        add("training tokens (millions)", told["tokens"] / 1e6)
        add("training time (minutes, one thread, both models at once)", told["minutes"])
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--show", action="store_true", help="print, write nothing")
    args = parser.parse_args()
    kept = HERE / "measured.csv"
    old = pd.read_csv(kept) if kept.exists() else pd.DataFrame(columns=COLUMNS)
    new = []
    for model, seed in product(("mini-gpt2", "mini-qwen2"), args.seeds):
        done = HERE / "_work" / f"{model}-{seed}" / "run.json"  # written at the end
        if seed == 0 or done.exists():
            new += measure(model, seed)
    frame = pd.DataFrame(new, columns=COLUMNS)
    fresh = set(zip(frame.model, frame.seed, strict=True))
    stay = [(m, s) not in fresh for m, s in zip(old.model, old.seed, strict=True)]
    frame = pd.concat([old[stay], frame]) if len(old) else frame
    frame = frame.sort_values(["model", "seed"], kind="stable")
    if args.show:
        print(frame.round(4).to_string())
        return
    from models.card import card

    write_whole(kept, frame.to_csv(index=False, float_format="%.4g"))
    write_whole(HERE / "README.md", card(pd.read_csv(kept), len(ambiguous())))


if __name__ == "__main__":
    main()
