"""Does putting off the choice of a token help? (CLAIMS.md N6)

    sums, meanings, two_sentences    tasks that take more than a glance
    answers      the text each way of decoding gives, the same number of steps for each
    correct      whether a text begins with the answer
    score_task   right or wrong, by way, on a task where greedy leaves headroom
    ahead_task   the bare case: guess the next token but one without fixing the next
    true_ahead, own_ahead    what that token is, by the corpus or by the model itself

Ways: discrete (greedy), continuous, gated (a mixture only where entropy is high) and
sampled. A token read straight off the prompt is the same under the first three: what
is fed back can only change what follows it.
"""

import random
from dataclasses import replace
from itertools import permutations, product

import pandas as pd
import torch

from experiments.information_analysis.bits import contexts, next_probs, normalise
from experiments.scoring import starts_with_answer
from experiments.true_distribution import true_ahead
from helpers.decode import generate_concepts
from helpers.mixture import MixtureConfig
from helpers.weight_rules import sampled

HEADROOM = (0.4, 0.8)  # greedy scores between which a difference could show
WAYS = ("discrete", "continuous", "gated", "sampled")


def sums(terms, n, seed=0, keep=None) -> list[tuple[str, str]]:
    """(prompt, answer) of `n` sums of `terms` numbers 0 to 10 that `keep(*numbers)`."""
    facts = [x for x in product(range(11), repeat=terms) if keep is None or keep(*x)]
    chosen = random.Random(seed).sample(facts, min(n, len(facts)))
    return [(f"{' plus '.join(map(str, x))} equals", str(sum(x))) for x in chosen]


WORDINGS = (
    "The meaning of the word {} is", "The meaning of {} is",
    "The plain meaning of {} is", "In plain English {} is", "A {} is",
)  # fmt: skip


def meanings(items, n, seed=0) -> list[tuple[str, str]]:
    """(prompt, answer) of `n` meanings, in wordings that the mini corpus never has."""
    asked = [(way.format(i.prompt), i.gold) for way in WORDINGS for i in items]
    return random.Random(seed).sample(asked, min(n, len(asked)))


def two_sentences(items, n, seed=0) -> list[tuple[str, str]]:
    """(instruction, answer) of `n` pairs of sentences to translate in one go."""
    pairs = random.Random(seed).sample(list(permutations(items, 2)), n)
    return [(f"Please translate the following: {a.prompt} {b.prompt}",
             f"{a.gold} {b.gold}") for a, b in pairs]  # fmt: skip


def decode_answers(
    lm, prompts, steps, ways=WAYS, config=None, seed=0
) -> dict[str, list[str]]:
    """way -> the new text of each prompt, `steps` forward calls each."""
    config = config or MixtureConfig()
    texts = {}
    for way in ways:
        mode = "discrete" if way == "sampled" else way
        rule = {"weight_rule": sampled(seed)} if way == "sampled" else {}
        how = replace(config, mode=mode)
        trace = generate_concepts(lm, prompts, steps, how, **rule)
        texts[way] = lm.tokenizer.batch_decode(trace.tokens, skip_special_tokens=True)
    return texts


def own_ahead(lm, c, keep=100):
    """The same by the model: sum_i p_i P_i over its `keep` likeliest tokens, T = 1."""
    p = next_probs(lm, c.prefix[:-1], c.prefix[-1:])[0]
    p, ids = p.topk(min(keep, len(p)))
    return normalise(p) @ next_probs(lm, c.prefix, lm.embed[ids.to(lm.embed.device)])


def score_task(lm, items, steps, seed=0, screen=60) -> pd.DataFrame:
    """Right (1) or wrong (0) by way for (prompt, answer) `items`.

    The first `screen` items are asked greedily first. Where those are clearly without
    headroom, by 10 points or more, nothing else is run and the other ways are NaN.
    """

    def scores(items, ways):
        prompts, golds = zip(*items)
        texts = decode_answers(lm, list(prompts), steps, ways, seed=seed)
        right = {
            way: [float(starts_with_answer(t, gold)) for t, gold in zip(said, golds)]
            for way, said in texts.items()
        }
        return pd.DataFrame(right, columns=WAYS, dtype=float)

    table = scores(items[:screen], WAYS[:1])
    if HEADROOM[0] - 0.1 < table.discrete.mean() < HEADROOM[1] + 0.1:
        return scores(items, WAYS)
    return table


def ahead_task(lm, prompts, steps, true_next=None, sure=0.9) -> pd.DataFrame:
    """`ahead_rows` along greedy texts, where the largest weight is at most `sure`.

    The target is the corpus's where `true_next` is given and covers the text, and the
    model's own where it is not given.
    """
    trace = generate_concepts(lm, prompts, steps, MixtureConfig(mode="discrete"))
    kept, targets = [], []
    for c in contexts(lm, prompts, trace):
        text = prompts[c.prompt] + lm.tokenizer.decode(trace.tokens[c.prompt][: c.step])
        if float(c.probs[0]) <= sure:
            target = (true_ahead(true_next, lm.tokenizer, text) if true_next
                      else own_ahead(lm, c))  # fmt: skip
            if target is not None:
                kept.append(c)
                targets.append(target)
    return ahead_rows(lm, kept, targets)


def ahead_rows(lm, found, targets, gate=1.0) -> pd.DataFrame:
    """Chance of guessing the token after next, by what is fed in between.

    found: contexts; targets: for each the distribution (V,) of the token after next,
    given what came before. Fed in between: the top token, the mixture, the mixture
    where entropy is above `gate` nats, or a drawn token (averaged exactly over the
    draw). `best` is the highest any guess could score.
    """
    rows = []
    for c, target in zip(found, targets, strict=True):
        likely = c.probs > 1e-4  # the others are drawn too rarely to count
        fed = torch.cat([c.concept[None], lm.embed[c.indices[likely]]])
        guess = next_probs(lm, c.prefix, fed).argmax(-1)
        hit = target.double()[guess]
        weights = normalise(c.probs[likely])
        scores = {"discrete": hit[1], "continuous": hit[0],
                  "gated": hit[0] if c.entropy > gate else hit[1],
                  "sampled": weights @ hit[1:], "best": target.max()}  # fmt: skip
        rows.append({"prompt": c.prompt, "step": c.step}
                    | {way: float(score) for way, score in scores.items()})  # fmt: skip
    return pd.DataFrame(rows)
