"""Do chains of mixtures carry several paths? Measured on held-out problems (T2 to T4).

    right_answers   which problems are answered rightly, by model and what is fed
    answer_parts    T2's and T3's parts; answer_table: shares of right answers
    wrong_turn      T4: the answers after a wrong first step
    left_out        and after a last thought without the best traces
    ablated         the answers with single thoughts replaced
    branch_rows     what follows two partial sums, mixed (as R1 and N2 ask of words)
    thoughts        what is said at each step of a problem, to draw
    decoded         how near that is to the distribution over all traces

A row of a frame is a problem. Intervals draw whole multisets of numbers.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor
from torch.nn.functional import one_hot
from transformers import GPT2LMHeadModel

from experiments.metrics import js_bits
from experiments.stats import Estimate, bootstrap, clustered, paired_difference
from experiments.trained_reading.reading import read_share
from experiments.trained_reading.signed_sums import (
    PAUSE,
    VOCABULARY,
    Problems,
    sum_id,
    sum_name,
)
from experiments.trained_reading.thinking import THOUGHTS, think

Models = Mapping[str, GPT2LMHeadModel]  # by kind
Parts = dict[str, Estimate]

FED = {  # name -> kind of model, what it is fed
    "soft": ("mixture", "soft"),
    "top": ("mixture", "top"),
    "shuffled": ("mixture", "shuffled"),
    "draws_1": ("mixture", "1 draw"),
    "draws_2": ("mixture", "2 draws"),
    "draws_4": ("mixture", "4 draws"),
    "draws_8": ("mixture", "8 draws"),
    "discrete": ("token", "top"),
    "discrete_soft": ("token", "soft"),
    "pause": ("pause", "pause"),
    "hidden": ("hidden", "hidden"),
    "coconut": ("coconut", "hidden"),
}
PAIRS = {  # claim -> part -> the two whose difference it is
    "T2": {
        "soft_over_top": ("soft", "top"),
        "soft_over_shuffled": ("soft", "shuffled"),
        "soft_over_discrete": ("soft", "discrete"),
    },
    "T3": {
        "mixture_over_pause": ("soft", "pause"),
        "hidden_over_mixture": ("hidden", "soft"),
        "coconut_over_mixture": ("coconut", "soft"),
    },
}
LABELS = {
    "soft": "its own mixtures",
    "top": "their top tokens alone",
    "shuffled": "runners-up shuffled",
    "draws_1": "1 draw",
    "draws_2": "mean of 2 draws",
    "draws_4": "mean of 4 draws",
    "draws_8": "mean of 8 draws",
    "discrete": "trained on tokens, fed tokens",
    "discrete_soft": "trained on tokens, fed mixtures",
    "pause": "pause tokens",
    "hidden": "hidden states, supervised alike",
    "coconut": "hidden states, COCONUT",
}
OWN_WAY = {"mixture": "soft", "token": "top", "pause": "pause"}
OWN_WAY |= {"hidden": "hidden", "coconut": "hidden"}
CROSSED = {"soft": "fed mixtures", "top": "fed top tokens"}
CROSSED |= {"hidden": "fed hidden states", "pause": "fed pause tokens"}
BRANCH_GRID = tuple(i / 10 for i in range(11))


def answers(
    model: GPT2LMHeadModel,
    problems: Problems,
    way: str | Sequence[str],
    seed: int = 0,
    fixed: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """Find the answers (N,) as tokens: the likeliest after the last thought."""
    return think(model, problems, way, seed, fixed)[:, -1].argmax(-1)


def right_answers(models: Models, problems: Problems, seed: int = 0) -> pd.DataFrame:
    """Find which problems are answered rightly: multiset, and a column 0, 1 of FED."""
    columns = {"multiset": problems.multiset.tolist()}
    for name, (kind, way) in FED.items():
        said = answers(models[kind], problems, way, seed)
        columns[name] = (said == problems.answer).double().tolist()
    return pd.DataFrame(columns)


def _mean(problems: Problems, column: Tensor, seed: int) -> Estimate:
    """Estimate the mean of a column (N,) of problems."""
    groups = problems.multiset.tolist()
    return clustered(bootstrap, groups, column.double().tolist(), seed=seed)


def accuracy(right: pd.DataFrame, name: str, seed: int = 0) -> Estimate:
    """Estimate the share of right answers in a column of right_answers."""
    return clustered(bootstrap, right.multiset, right[name], seed=seed)


def answer_parts(right: pd.DataFrame, seed: int = 0) -> dict[str, Parts]:
    """Estimate T2's and T3's parts from right_answers of one training seed."""
    found = {}
    for claim, pairs in PAIRS.items():
        names = dict.fromkeys(name for pair in pairs.values() for name in pair)
        parts = {name: accuracy(right, name, seed) for name in names}
        for part, (a, b) in pairs.items():
            columns = right.multiset, right[a], right[b]
            parts[part] = clustered(paired_difference, *columns, seed=seed)
        found[claim] = parts
    return found


def answer_table(right: Mapping[int, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """Tabulate shares of right answers: fed, line (seed), value, low, high, n."""
    return pd.DataFrame(
        {"fed": label, "line": f"training seed {trained}"}
        | vars(accuracy(frame, name, seed))
        for name, label in LABELS.items()
        for trained, frame in right.items()
    )


def _one_sided(problems: Problems) -> tuple[Problems, Tensor, Tensor]:
    """Pick problems whose best traces all begin alike, with the other beginning.

    -> problems, that partial sum (M,), and the best answer left after it (M,).
    """
    begin, right = problems.traces[..., 0], problems.trace[:, 0]
    alike = ((begin == right[:, None]) | ~problems.best).all(-1)
    picked = problems.take(alike)
    begin, ends = picked.traces[..., 0], picked.traces[..., -1]
    other = begin != picked.trace[:, :1]
    zero_or_more = ends >= picked.answer[:, None]  # none lies between 0 and the answer
    left = ends.masked_fill(~(other & zero_or_more), VOCABULARY).amin(-1)
    return picked, begin[other].view(len(picked), -1)[:, 0], left


def wrong_turn(models: Models, problems: Problems, seed: int = 0) -> Parts:
    """Estimate T4's parts: what comes of a chain put on the wrong branch at step 1.

    Of the problems whose best signs begin alike, those that both the continuously and
    the discretely trained model solve when left alone. followed: the share whose second
    thought leans to what the wrong step leads to.
    """
    picked, wrong, left = _one_sided(problems)
    ways = {kind: OWN_WAY[kind] for kind in ("mixture", "token")}
    alone = [
        answers(models[kind], picked, way, seed) == picked.answer
        for kind, way in ways.items()
    ]
    solved = alone[0] & alone[1]
    picked, wrong, left = picked.take(solved), wrong[solved], left[solved]
    fixed = {0: one_hot(wrong, VOCABULARY).float()}
    said = {k: answers(models[k], picked, way, seed, fixed) for k, way in ways.items()}
    columns = {
        "recovered": said["mixture"] == picked.answer,
        "kept": said["mixture"] == left,
        "recovered_discrete": said["token"] == picked.answer,
        "kept_discrete": said["token"] == left,
    }
    parts = {name: _mean(picked, column, seed) for name, column in columns.items()}
    differ = picked.numbers[:, 0] != picked.numbers[:, 1]  # else both lead to 0
    leans = _leaning(models["mixture"], picked.take(differ), wrong[differ], seed) > 0.5
    parts["followed"] = _mean(picked.take(differ), leans, seed)
    over = columns["recovered"].double() - columns["recovered_discrete"].double()
    return parts | {"recovered_over_discrete": _mean(picked, over, seed)}


def _leaning(
    model: GPT2LMHeadModel, problems: Problems, fed: Tensor, seed: int
) -> Tensor:
    """Weigh step 2 after a partial sum (M,) is fed: share (M,) on what it leads to.

    Of the probability of the four sums that are possible at step 2.
    """
    fixed = {0: one_hot(fed, VOCABULARY).float()}
    p = think(model, problems, "soft", seed, fixed)[:, 1].double().softmax(-1)
    first, second = problems.traces[..., 0], problems.traces[..., 1]
    own = first == fed[:, None]
    on = torch.zeros_like(p, dtype=torch.bool)
    led = p * on.scatter(1, second, own)
    return led.sum(-1) / (p * on.scatter(1, second, True)).sum(-1)


def left_out(model: GPT2LMHeadModel, problems: Problems, seed: int = 0) -> Parts:
    """Take the best traces out of the last thought: which answer follows?

    The last thought is the distribution over all traces' third sums, without those of
    best traces. recovered: the share that answers rightly all the same; follows: that
    answers the best of what is left. Problems where anything is left are asked.
    """
    third, ends = problems.traces[..., 2], problems.traces[..., 3]
    gone = third.where(problems.best, PAUSE)  # no sum is PAUSE
    weights = problems.spread[:, 2].scatter(1, gone, 0.0)
    usable = (weights.gather(1, third) > 0) & (ends >= sum_id(0))
    best_left = ends.masked_fill(~usable, VOCABULARY).amin(-1)
    some = usable.any(-1)
    picked, best_left, weights = problems.take(some), best_left[some], weights[some]
    fixed = {2: weights / weights.sum(-1, keepdim=True)}
    said = answers(model, picked, "soft", seed, fixed)
    hits = {"recovered": said == picked.answer, "follows": said == best_left}
    return {name: _mean(picked, hit, seed) for name, hit in hits.items()}


def ablated(models: Models, problems: Problems, seed: int = 0) -> pd.DataFrame:
    """Tabulate right answers with no thought, one, or all replaced.

    instead: the top token alone, runners-up shuffled, or another problem's mixture.
    """
    rows = []
    places = {"none": (), "thought 1": (0,), "thought 2": (1,), "thought 3": (2,)}
    places |= {"all": (0, 1, 2)}
    instead = ("top", "shuffled", "other")
    for kind, other in itertools.product(("mixture", "token"), instead):
        way = OWN_WAY[kind]
        row = {"model": kind, "instead": other}
        for name, replaced in places.items():
            ways = [other if t in replaced else way for t in range(THOUGHTS)]
            right = answers(models[kind], problems, ways, seed) == problems.answer
            row[name] = float(right.double().mean())
        rows.append(row)
    return pd.DataFrame(rows)


def branch_rows(model: GPT2LMHeadModel, problems: Problems) -> pd.DataFrame:
    """Mix the partial sums +a and -a of a first number a: what is said at step 2?

    One row a problem (whose second number b is another, so that +a+b, +a-b and -a+b,
    -a-b differ) and weight w of +a: template (its multiset), share, of the probability
    of these four sums how much is on the first two, and on_path, their probability.
    mixture, top: at w = .5, JS in bits from the mean of what follows +a and -a alone to
    what follows the mixture, and +a alone: read_share's columns.
    """
    picked = problems.take(problems.numbers[:, 0] != problems.numbers[:, 1])
    ends = picked.traces[:, [0, -1], 0]  # +a, -a
    plus, minus = one_hot(ends, VOCABULARY).float().unbind(1)
    said = {}
    for w in BRANCH_GRID:
        logits = think(model, picked, "soft", fixed={0: w * plus + (1 - w) * minus})
        said[w] = logits[:, 1].double().softmax(-1)
    second = picked.traces[:, :, 1]
    from_plus = picked.traces[:, :, 0] == ends[:, :1]
    mask = torch.zeros(2, len(picked), VOCABULARY)
    mask[0].scatter_(1, second.where(from_plus, second[:, :1]), 1)
    mask[1].scatter_(1, second.where(~from_plus, second[:, -1:]), 1)
    q = (said[0.0] + said[1.0]) / 2
    row = {"template": picked.multiset.tolist(), "problem": range(len(picked))}
    row |= {"mixture": js_bits(said[0.5], q), "top": js_bits(said[1.0], q)}
    rows = []
    for w, p in said.items():
        on = (mask * p).sum(-1)
        share = on[0] / on.sum(0)
        rows.append(pd.DataFrame(row | {"w": w, "share": share, "on_path": on.sum(0)}))
    return pd.concat(rows, ignore_index=True)


def branch_table(models: Models, problems: Problems, seed: int = 0) -> pd.DataFrame:
    """Tabulate what is read of +a and -a mixed, by models trained on mixtures, tokens.

    read: the share of it beyond +a alone (reading.read_share). linear_gap: |share - w|,
    averaged over w. on_path: the probability of the four sums that can follow.
    """
    rows = {}
    for kind in ("mixture", "token"):
        found = branch_rows(models[kind], problems)
        half = found[found.w == 0.5]
        gap = (found.share - found.w).abs()
        each = {
            "read": read_share(half, seed=seed),
            "linear_gap": clustered(bootstrap, found.template, gap, seed=seed),
            "on_path": clustered(bootstrap, half.template, half.on_path, seed=seed),
        }
        rows[kind] = {
            k: f"{e.value:.2f} [{e.low:.2f}, {e.high:.2f}]" for k, e in each.items()
        }
    return pd.DataFrame(rows).T


def width_table(widths: pd.DataFrame) -> pd.DataFrame:
    """Name the lines of learned.widths(), narrow models first, to draw."""
    names = {"soft": "mixtures", "top": "top tokens"}
    kind = "trained on " + widths.kind + "s, fed " + widths.way.map(names)
    first = widths.seed == widths.seed.min()
    return widths.assign(line=kind)[first].sort_values(["line", "width"])


def branch_curves(models: Models, problems: Problems) -> pd.DataFrame:
    """Average branch_rows over problems, to draw: line, w, mean, 10%, 90%.

    Beside them a reader of both (share = w) and of the heavier alone.
    """
    tables = []
    for name, model in models.items():
        rows = branch_rows(model, problems)
        table = rows.groupby("w").share.describe([0.1, 0.9]).reset_index()
        tables.append(table.assign(line=name))
    grid = pd.Series(BRANCH_GRID)
    step = (grid > 0.5) + 0.5 * (grid == 0.5)
    for line, mean in (("reader of both", grid), ("heavier alone", step)):
        tables.append(pd.DataFrame({"w": grid, "mean": mean, "line": line}))
    return pd.concat(tables, ignore_index=True)[["line", "w", "mean", "10%", "90%"]]


def find(problems: Problems, numbers: list[int]) -> Problems:
    """Pick the problem of these numbers; ValueError where it is not among them."""
    found = (problems.numbers + 1 == torch.tensor(numbers)).all(-1)
    if not found.any():
        raise ValueError(f"{numbers}: not among the {len(problems)} problems given")
    return problems.take(found)


def wording(problem: Problems) -> str:
    """Write a problem and its answer: "3 1 4 2, answer 0"."""
    numbers = " ".join(sum_name(i) for i in problem.numbers[0].tolist())
    return f"{numbers}, answer {sum_name(int(problem.answer[0]))}"


def thoughts(
    models: Mapping[str, tuple], problem: Problems, least: float = 0.02
) -> pd.DataFrame:
    """List what is said at each step of one problem: model, step, token, prob.

    models: name -> (model, what it is fed). Before them the distribution over traces.
    """
    said = {"all 16 traces": problem.spread[0]}
    for name, (model, way) in models.items():
        said[name] = think(model, problem, way)[0].softmax(-1)
    return pd.DataFrame(
        {"model": name, "step": t + 1, "token": sum_name(i), "prob": p}
        for name, steps in said.items()
        for t, row in enumerate(steps.tolist())
        for i, p in enumerate(row)
        if p >= least
    )


def decoded(models: Models, problems: Problems, seed: int = 0) -> pd.DataFrame:
    """Compare what is said at each step with the distribution over all traces.

    One row a model and step: js, bits from the one to the other, and reachable, the
    probability of partial sums that some trace runs through; each with its interval.
    """
    rows = []
    for kind, way in OWN_WAY.items():
        if kind == "pause":  # learns the answer alone
            continue
        model = models[kind]
        said = think(model, problems, way).softmax(-1)
        for t in range(said.shape[1] - 1):
            target = problems.spread[:, t]
            columns = {
                "js": js_bits(said[:, t], target),
                "reachable": (said[:, t] * (target > 0)).sum(-1),
            }
            row = {"model": kind, "step": t + 1}
            for name, column in columns.items():
                e = _mean(problems, column, seed)
                row[name] = f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]"
            rows.append(row)
    return pd.DataFrame(rows)


def cross_fed(models: Models, problems: Problems, seed: int = 0) -> pd.DataFrame:
    """Tabulate right answers where a model is fed what another was trained on."""
    rows = {}
    for kind, model in models.items():
        said = {way: answers(model, problems, way, seed) for way in CROSSED}
        rows[f"trained as {kind}"] = {
            name: float((said[way] == problems.answer).double().mean())
            for way, name in CROSSED.items()
        }
    return pd.DataFrame(rows).T
