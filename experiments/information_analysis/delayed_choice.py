"""Does putting off the choice of a token help? (claim N6)

    sums, meanings, two_sentences   tasks that take more than a glance
    text_tasks           those that a model can be asked
    decode_answers       each way's text, the same number of forward calls for each
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
from itertools import permutations, product
from typing import TYPE_CHECKING

import pandas as pd
import torch
from torch import Tensor

from experiments.information_analysis.contexts import (
    Context,
    next_probs,
    normalise,
    trace_contexts,
)
from experiments.prompts import SUITES, Item
from experiments.scoring import starts_with_answer
from experiments.stats import Estimate, bootstrap, paired_difference
from experiments.true_distribution import true_ahead
from helpers.decode import generate_concepts
from helpers.mixture import MixtureConfig
from helpers.models import chat_prompt
from helpers.weight_rules import sampled

if TYPE_CHECKING:
    from helpers.models import LM

HEADROOM = (0.4, 0.8)  # greedy scores between which a difference could show
WAYS = ("discrete", "continuous", "gated", "sampled")
SAMPLES = 8  # of which the best is taken for the headroom
WORDINGS = (
    "The meaning of the word {} is",
    "The meaning of {} is",
    "The plain meaning of {} is",
    "In plain English {} is",
    "A {} is",
)
Items = list[tuple[str, str]]  # (prompt, answer)


def sums(terms: int, n: int, seed: int = 0, keep: Callable | None = None) -> Items:
    """Draw `n` sums of `terms` numbers 0 to 10 of which `keep(*numbers)` is true."""
    facts = [x for x in product(range(11), repeat=terms) if keep is None or keep(*x)]
    chosen = random.Random(seed).sample(facts, min(n, len(facts)))
    return [(f"{' plus '.join(map(str, x))} equals", str(sum(x))) for x in chosen]


def meanings(items: Sequence[Item], n: int, seed: int = 0) -> Items:
    """Draw `n` questions for a meaning, in wordings that the mini corpus never has."""
    asked = [(way.format(i.prompt), i.gold) for way in WORDINGS for i in items]
    return random.Random(seed).sample(asked, min(n, len(asked)))


def two_sentences(items: Sequence[Item], n: int, seed: int = 0) -> Items:
    """Draw `n` pairs of sentences to translate in one go, as instructions."""
    pairs = random.Random(seed).sample(list(permutations(items, 2)), n)
    instruction = "Please translate the following: {} {}".format
    return [(instruction(a.prompt, b.prompt), f"{a.gold} {b.gold}") for a, b in pairs]


def text_tasks(
    lm: LM, n: int, seed: int = 0, held_out: Callable | None = None, chat: bool = False
) -> dict[str, tuple[Items, int]]:
    """Make the tasks -> (prompt, answer) items, and the tokens an answer may take.

    held_out: (a, b, c) -> whether a sum of three was kept out of training. chat: the
    model follows instructions.
    """
    tasks = {
        "sums of three": (sums(3, n, seed, held_out), 10),
        "sums of four": (sums(4, n, seed), 10),
        "meanings": (meanings(SUITES["meanings"], n, seed), 10),
    }
    if chat:
        pairs = two_sentences(SUITES["spanish"], n, seed)
        pairs = [(chat_prompt(lm, text), answer) for text, answer in pairs]
        tasks["two sentences"] = pairs, 24
    return tasks


def decode_answers(
    lm: LM, prompts: list[str], steps: int, ways: Sequence[str] = WAYS, seed: int = 0
) -> dict[str, list[str]]:
    """Decode each prompt in each way, `steps` forward calls each -> way: new texts."""
    texts = {}
    for way in ways:
        mode = "discrete" if way == "sampled" else way
        rule = {"weight_rule": sampled(seed)} if way == "sampled" else {}
        config = MixtureConfig(mode=mode)
        trace = generate_concepts(lm, prompts, steps, config, **rule)
        texts[way] = lm.tokenizer.batch_decode(trace.tokens, skip_special_tokens=True)
    return texts


def score_task(
    lm: LM, items: Items, steps: int, seed: int = 0, screen: int = 60
) -> pd.DataFrame:
    """Score right (1) or wrong (0) by way for (prompt, answer) `items`.

    best_of: whether any of `SAMPLES` samples is right. The first `screen` items are
    asked greedily first. Where those are clearly without headroom, by 10 points or
    more, nothing else is run and the other ways are NaN.
    """

    def scores(items, ways, seed=seed):
        prompts, answers = zip(*items)
        decoded = decode_answers(lm, list(prompts), steps, ways, seed=seed)
        right = {
            way: [float(starts_with_answer(*pair)) for pair in zip(texts, answers)]
            for way, texts in decoded.items()
        }
        return pd.DataFrame(right, columns=[*WAYS, "best_of"], dtype=float)

    table = scores(items[:screen], WAYS[:1])
    if HEADROOM[0] - 0.1 < table.discrete.mean() < HEADROOM[1] + 0.1:
        table = scores(items, WAYS)
        more = [scores(items, WAYS[-1:], seed + n).sampled for n in range(1, SAMPLES)]
        table["best_of"] = pd.concat([table.sampled, *more], axis=1).max(axis=1)
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


def model_ahead(lm: LM, c: Context, keep: int = 100) -> Tensor:
    """Predict the token after next (V,): sum_i p_i P_i over `keep` likeliest tokens.

    p is the model's own next-token distribution at temperature 1.
    """
    p = next_probs(lm, c.prefix[:-1], c.prefix[-1:])[0]
    p, ids = p.topk(min(keep, len(p)))
    return normalise(p) @ next_probs(lm, c.prefix, lm.embed[ids.to(lm.embed.device)])


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
        rows.append({"prompt": c.prompt, "step": c.step} | scores)
    return pd.DataFrame(rows)


def best_of_samples(scores: Tensor, weights: Tensor, n: int = SAMPLES) -> Tensor:
    """Compute the expected best score of `n` draws of scores (K,) with weights (K,)."""
    scores, order = scores.sort()
    below = weights[order].cumsum(0).clamp_max(1) ** n  # all n are among the lowest
    return scores @ torch.diff(below, prepend=below.new_zeros(1))


def score_model(
    lm: LM,
    prompts: list[str],
    tasks: dict[str, tuple[Items, int]],
    seed: int = 0,
    true_next: Callable | None = None,
) -> pd.DataFrame:
    """Score `ahead_task` after `prompts`, called "next but one", and every task."""
    scores = {"next but one": ahead_task(lm, prompts, 2, true_next)}
    for task, (items, steps) in tasks.items():
        scores[task] = score_task(lm, items, steps, seed)
    return pd.concat(scores, names=["task"]).reset_index("task")


def way_scores(scored: pd.DataFrame, seed: int = 0) -> pd.DataFrame:
    """Average scores (with a column model) by model, task and way that was run."""
    return pd.DataFrame(
        {"model": model, "task": task, "way": way.replace("_of", f" of {SAMPLES}")}
        | vars(bootstrap(part[way].dropna(), seed=seed))
        for (model, task), part in scored.groupby(["model", "task"], sort=False)
        for way in (*WAYS, "best_of")
        if part[way].notna().any()
    )


def deferral_estimates(
    part: pd.DataFrame, way: str, seed: int = 0
) -> dict[str, Estimate]:
    """Estimate the parts of N6 for one model, task and way.

    headroom: best_of minus discrete. It and the difference are left out where greedy
    was nearly always right or wrong, so that nothing else was run.
    """
    estimates = {"greedy_accuracy": bootstrap(part.discrete, seed=seed)}
    if part[way].notna().all():
        for name, other in (("headroom", "best_of"), ("difference", way)):
            pair = part[other], part.discrete
            estimates[name] = paired_difference(*pair, seed=seed)
    return estimates
