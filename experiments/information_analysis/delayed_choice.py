"""Does putting off the choice of a token help? (claim N6)

    sums, worded, two_sentences   tasks that take more than a glance
    text_tasks           those that a model can be asked
    score_task           right or wrong, by way, on a task where greedy leaves headroom
    ahead_task           the bare case: guess the next token but one, the next left open
    model_ahead          what that token is by the model itself
    score_model          all of these for one model
    way_scores           share right by model, task and way, to draw
    deferral_estimates   the parts of N6

Ways: discrete (greedy), continuous, gated (a mixture only where entropy is high) and
sampled. best_of: the best of `SAMPLES` samples, chosen by who knows the answer; what it
wins over greedy is the headroom of any other choice of tokens. A token read straight
off the prompt is the same under the first three: what is fed back can only change what
follows it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import permutations, product
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from experiments.information_analysis.contexts import (
    Context,
    next_probs,
    normalise,
    trace_contexts,
)
from experiments.information_analysis.ways import decode_answers
from experiments.prompts import CAPITAL, MEANING_OF, Item, reworded
from experiments.scoring import is_right, normalise_words, starts_with_answer
from experiments.stats import Estimate, bootstrap, clustered, paired_difference
from experiments.true_distribution import true_ahead
from helpers.decode import generate_concepts
from helpers.mixture import MixtureConfig
from helpers.models import chat_prompt

if TYPE_CHECKING:
    from experiments.information_analysis.contexts import Suites
    from helpers.models import LM

HEADROOM = (0.4, 0.8)  # greedy scores between which a difference could show
WAYS = ("discrete", "continuous", "gated", "sampled")
SAMPLES = 8  # of which the best is taken for the headroom
FROM_SPANISH = (  # of words and of sentences, to chat models
    "Translate to English: {}",
    "Please translate the following: {}",
    "What does this mean in English? {}",
    "Translate the following Spanish text into English: {}",
    "How do you say this in English? {}",
)
EXPLAINED = (
    "What does the word {} mean?",
    "What is the meaning of {}?",
    "Explain the word {} in plain English.",
    "Define the word {}.",
    "What is meant by {}?",
)
CAPITAL_OF = (
    "What is the capital of {}?",
    "Which city is the capital of {}?",
    "Name the capital of {}.",
    "Tell me the capital city of {}.",
    "What is the name of the capital of {}?",
    "Do you know the capital of {}?",
    "Which city is the seat of {}'s government?",
)
BRIEFLY = ("{}", "Answer in a few words. {}", "Answer briefly: {}", "{} Be brief.")


class Question(NamedTuple):
    """A prompt, what is right, and the unit drawn: near copies of one share it.

    answer: a text that has to come first, or items each of which has to be right
    (scoring.is_right), wherever in the text that is.
    """

    prompt: str
    answer: str | tuple[Item, ...]
    unit: str


Task = tuple[list[Question], int]  # and how many tokens an answer may take


def is_correct(text: str, answer: str | tuple[Item, ...]) -> bool:
    """Whether a text is right by a Question's answer."""
    if isinstance(answer, str):
        return starts_with_answer(text, answer)
    return all(is_right(text, item) for item in answer)


def is_settled(text: str, answer: str | tuple[Item, ...]) -> bool:
    """Whether no further words can change what `is_correct` says of a text."""
    words = normalise_words(text)[:-1]  # the last one may go on
    if isinstance(answer, str):
        return len(words) >= len(normalise_words(answer))
    return is_correct(" ".join(words), answer)


def sums(
    terms: int, n: int, seed: int = 0, keep: Callable | None = None, largest: int = 10
) -> list[Question]:
    """Draw `n` sums of `terms` numbers 0 to `largest` of which `keep(*numbers)`."""
    facts = product(range(largest + 1), repeat=terms)
    facts = [x for x in facts if keep is None or keep(*x)]
    chosen = random.Random(seed).sample(facts, min(n, len(facts)))
    asked = [(f"{' plus '.join(map(str, x))} equals", str(sum(x))) for x in chosen]
    return [Question(prompt, total, prompt) for prompt, total in asked]


def worded(
    items: Sequence[Item], wordings: Sequence[str], n: int, seed: int = 0
) -> list[Question]:
    """Draw `n` questions: items in several wordings, each item's being near copies."""
    asked = reworded(items, wordings, n, seed)
    return [Question(item.prompt, (item,), item.template) for item in asked]


def two_sentences(items: Sequence[Item], n: int, seed: int = 0) -> list[Question]:
    """Draw `n` pairs of sentences to translate in one go, as instructions."""
    pairs = random.Random(seed).sample(list(permutations(items, 2)), n)
    prompts = [
        f"Please translate the following: {a.prompt} {b.prompt}" for a, b in pairs
    ]
    return [Question(prompt, pair, prompt) for prompt, pair in zip(prompts, pairs)]


def text_tasks(
    lm: LM,
    asked: Suites,
    n: int,
    seed: int = 0,
    held_out: Callable | None = None,
    chat: bool = False,
) -> dict[str, Task]:
    """Make the tasks of a set from its suites -> questions, tokens an answer may take.

    held_out: (a, b, c) -> whether a sum of three was kept out of training. chat: the
    model follows instructions. A mini model says what it was taught, word for word and
    first; a real one says it in its own words, so that an answer is looked for in its
    text. Real models are asked for easier sums, too, and for more of what they can do.
    """
    tasks = {
        "sums of three": (sums(3, n, seed, held_out), 10),
        "sums of four": (sums(4, n, seed), 10),
        "meanings": (worded(asked["meanings"], MEANING_OF, n, seed), 10),
    }
    chats = {"two sentences": (two_sentences(asked["spanish"], n, seed), 24)}
    if "spanish_words" in asked:  # natural suites
        easy = sums(2, n, seed, largest=20), 6
        tasks = {"sums of two": easy} | {k: (q, 6) for k, (q, _) in tasks.items()}
        tasks["meanings"] = tasks["meanings"][0], 16
        words, sentences = asked["spanish_words"], asked["spanish"]
        gap = CAPITAL.split("_")
        lands = [
            replace(i, prompt=i.prompt.removeprefix(gap[0]).removesuffix(gap[1]))
            for i in asked["capitals"]
        ]
        chats |= {
            "explanations": (worded(asked["meanings"], EXPLAINED, n, seed), 16),
            "capitals": (worded(lands, CAPITAL_OF, n, seed), 12),
            "Spanish words": (worded(words, FROM_SPANISH, n, seed), 16),
            "Spanish sentences": (worded(sentences, FROM_SPANISH, n, seed), 16),
            "instructions": (worded(asked["instructions"], BRIEFLY, n, seed), 16),
        }
    else:
        tasks["meanings"] = _said_first(tasks["meanings"])
        chats = {name: _said_first(task) for name, task in chats.items()}
    for name, (questions, steps) in chats.items() if chat else ():
        put = [q._replace(prompt=chat_prompt(lm, q.prompt)) for q in questions]
        tasks[name] = put, steps
    return tasks


def task_table(tasks: dict[str, dict[str, Task]]) -> pd.DataFrame:
    """Show one question of each task by model: prompt, answer, how many, tokens."""
    rows = [
        {"task": name, "prompt": q.prompt, "right": _shown(q.answer)}
        | {"questions": len(questions), "tokens": steps}
        for own in tasks.values()
        for name, (questions, steps) in own.items()
        for q in questions[:1]
    ]
    return pd.DataFrame(rows).drop_duplicates("task").set_index("task")


def _shown(answer: str | tuple[Item, ...]) -> str:
    if isinstance(answer, str):
        return answer
    return " + ".join(" | ".join(item.accepted) for item in answer)


def _said_first(task: Task) -> Task:
    """Let the items' own answers come first, word for word."""
    questions, steps = task
    texts = [" ".join(item.gold for item in q.answer) for q in questions]
    return [q._replace(answer=text) for q, text in zip(questions, texts)], steps


def score_task(lm: LM, task: Task, seed: int = 0, screen: int = 60) -> pd.DataFrame:
    """Score right (1) or wrong (0) by way for a task's questions, with their units.

    best_of: whether any of `SAMPLES` samples is right. The first `screen` questions are
    asked greedily first. Where those are clearly without headroom, by 10 points or
    more, nothing else is run and the other ways are NaN.
    """
    questions, steps = task

    def scores(questions, ways):
        prompts = [q.prompt for q in questions]

        def settled(i, text):
            return is_settled(text, questions[i].answer)

        decoded = decode_answers(lm, prompts, steps, ways, SAMPLES, seed, settled)
        right = {
            way: [
                [float(is_correct(text, q.answer)) for text, q in zip(texts, questions)]
                for texts in draws
            ]
            for way, draws in decoded.items()
        }
        table = pd.DataFrame({way: draws[0] for way, draws in right.items()})
        if "sampled" in right:
            table["best_of"] = np.max(right["sampled"], axis=0)
        table = table.reindex(columns=[*WAYS, "best_of"]).astype(float)
        return table.assign(unit=[q.unit for q in questions])

    table = scores(questions[:screen], WAYS[:1])
    if HEADROOM[0] - 0.1 < table.discrete.mean() < HEADROOM[1] + 0.1:
        table = scores(questions, WAYS)
    return table


def ahead_task(
    lm: LM,
    prompts: list[str],
    steps: int,
    true_next: Callable | None = None,
    sure: float = 0.9,
) -> pd.DataFrame:
    """Score `ahead_rows` along greedy texts, where no weight is above `sure`.

    The target is the corpus's where `true_next` is given and covers the text, and the
    model's own where it is not given.
    """
    trace = generate_concepts(lm, prompts, steps, MixtureConfig(mode="discrete"))
    kept, targets = [], []
    for c in trace_contexts(lm, prompts, trace):
        if float(c.probs[0]) > sure:
            continue
        text = prompts[c.prompt] + lm.tokenizer.decode(trace.tokens[c.prompt][: c.step])
        known = true_next and true_ahead(true_next, lm.tokenizer, text)
        target = known if true_next else model_ahead(lm, c)
        if target is not None:
            kept.append(c)
            targets.append(target)
    return ahead_rows(lm, kept, targets)


def model_ahead(lm: LM, c: Context, least: float = 0.005) -> Tensor:
    """Predict the token after next (V,): sum_i p_i P_i over tokens of p_i >= `least`.

    p is the model's own next-token distribution at temperature 1, at most 100 tokens
    of it.
    """
    p = next_probs(lm, c.prefix[:-1], c.prefix[-1:])[0]
    p, ids = p.topk(min(100, len(p)))
    kept = p >= min(least, float(p[0]))
    ids = ids[kept].to(lm.embed.device)
    return normalise(p[kept]) @ next_probs(lm, c.prefix, lm.embed[ids])


def ahead_rows(
    lm: LM, contexts: list[Context], targets: list[Tensor], gate: float = 1.0
) -> pd.DataFrame:
    """Compute the chance of guessing the token after next, by what is fed in between.

    targets: for each context the distribution (V,) of the token after next, given what
    came before. Fed in between: the top token, the mixture, the mixture where entropy
    is above `gate` nats, or a drawn token (averaged exactly over the draw). best_of is
    the best of `SAMPLES` such tokens (exactly, too), `best` what any guess could score.
    """
    rows = []
    for c, target in zip(contexts, targets, strict=True):
        likely = c.probs > 1e-4  # the others are drawn too rarely to count
        fed = torch.cat([c.concept[None], lm.embed[c.indices[likely]]])
        guess = next_probs(lm, c.prefix, fed).argmax(-1)
        hit = target.double()[guess]
        scores = {
            "discrete": hit[1],
            "continuous": hit[0],
            "gated": hit[0] if c.entropy > gate else hit[1],
            "sampled": normalise(c.probs[likely]) @ hit[1:],
            "best_of": best_of_samples(hit[1:], normalise(c.probs[likely])),
            "best": target.max(),
        }
        scores = {way: float(score) for way, score in scores.items()}
        rows.append({"prompt": c.prompt, "step": c.step, "unit": c.template} | scores)
    return pd.DataFrame(rows)


def best_of_samples(scores: Tensor, weights: Tensor, n: int = SAMPLES) -> Tensor:
    """Compute the expected best score of `n` draws of scores (K,) with weights (K,)."""
    scores, order = scores.sort()
    below = weights[order].cumsum(0).clamp_max(1) ** n  # all n are among the lowest
    return scores @ torch.diff(below, prepend=below.new_zeros(1))


def score_model(
    lm: LM,
    prompts: list[str],
    tasks: dict[str, Task],
    seed: int = 0,
    true_next: Callable | None = None,
) -> pd.DataFrame:
    """Score `ahead_task` after `prompts`, called "next but one", and every task."""
    # a step of mini's prompts is not always open; a real model's are, and cost more
    steps = 2 if true_next else 1
    scores = {"next but one": ahead_task(lm, prompts, steps, true_next)}
    for name, task in tasks.items():
        scores[name] = score_task(lm, task, seed)
    return pd.concat(scores, names=["task"]).reset_index("task")


def way_scores(scored: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Average scores (with a column model) by model, task and way that was run."""
    return pd.DataFrame(
        {"model": model, "task": task, "way": way.replace("_of", f" of {SAMPLES}")}
        | vars(clustered(bootstrap, kept.unit, kept[way], seed=seed))
        for (model, task), part in scored.groupby(["model", "task"], sort=False)
        for way in (*WAYS, "best_of")
        if len(kept := part.dropna(subset=way))
    )


def deferral_estimates(
    part: pd.DataFrame, way: str, seed: int = 0
) -> dict[str, Estimate]:
    """Estimate the parts of N6 for one model, task and way.

    headroom: best_of minus discrete. It and the difference are left out where greedy
    was nearly always right or wrong, so that nothing else was run. Intervals resample
    units: all wordings of one question, all prompts of one template; n counts rows.
    """
    draw = {"seed": seed}
    greedy = clustered(bootstrap, part.unit, part.discrete, **draw)
    estimates = {"greedy_accuracy": greedy}
    if part[way].notna().all():
        for name, other in (("headroom", "best_of"), ("difference", way)):
            pair = part[other], part.discrete
            estimates[name] = clustered(paired_difference, part.unit, *pair, **draw)
    return estimates
