"""Chains of concept tokens, and greedy decoding beside them (CLAIMS.md G7).

mixture_rows         the tokens mixed at each step, by prompt and model
chain_kinds          the chains compared, three of them floors
chain_rows           one row a prompt and kind: ids, agreement with greedy, NLL
chain_parts          G7's parts
agreement_by_step    agreement at each step; agreement_rows: of all models
chain_means          means by model and kind, with the share the corpus can say
chain_texts          the chains as text
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from experiments import floors
from experiments.hf_reference import truncate_at_eos
from experiments.metrics import rouge_l, token_agreement
from experiments.scoring import teacher_forced_logprobs
from experiments.stats import Estimate, bootstrap, normalised_score
from helpers.decode import generate_concepts
from helpers.mixture import MixtureConfig, WeightRule, sharpened

if TYPE_CHECKING:
    from helpers.models import LM

FEWEST = 10  # chains that a share at one step is worked out from
AGREEMENT_AXES = {
    "x": "step",
    "y": "share",
    "by": "kind",
    "low": "low",
    "high": "high",
    "panel": "model",
    "ylabel": "share with greedy's token",
}


def mixture_rows(
    lms: dict[str, LM], prompts: list[str], steps: int = 5, top: int = 6
) -> pd.DataFrame:
    """The heaviest tokens of each step's mixture; panel names the model and prompt."""
    frames = []
    for name, lm in lms.items():
        frame = generate_concepts(lm, prompts, steps).to_frame(top)
        panels = [f"{name}: {prompts[i]} …" for i in frame.prompt]
        frames.append(frame.assign(panel=panels))
    return pd.concat(frames)


def chain_kinds(seed: int = 0) -> dict[str, tuple[MixtureConfig, WeightRule]]:
    """Kind of chain -> settings and weight rule; the last three are floors."""
    plain = MixtureConfig()
    return {
        "greedy": (replace(plain, mode="discrete"), sharpened),
        "concept tokens": (plain, sharpened),
        "no clipping": (MixtureConfig.appendix(), sharpened),
        "raw weights": (MixtureConfig.raw(), sharpened),
        "shuffled weights": (plain, floors.shuffled(seed)),
        "random weights": (plain, floors.random_weights(seed)),
        "random tokens": (plain, floors.random_tokens(seed)),
    }


def chain_rows(lm: LM, prompts: list[str], steps: int, seed: int = 0) -> pd.DataFrame:
    """One row a prompt and kind of chain.

    ids: the model's top token at each step, whatever vector was fed before (a floor
    that named a token at random would be beaten by anything); agreement and rouge_l
    with the greedy chain; nll (nats a token) of the ids read as ordinary tokens.
    """
    rows = []
    for kind, (config, rule) in chain_kinds(seed).items():
        trace = generate_concepts(
            lm, prompts, steps, config, weight_rule=rule, stop_at_eos=False
        )
        top, _ = teacher_forced_logprobs(lm, prompts, trace.vectors)
        fed = lm.embed[top.to(lm.device)]
        _, log_p = teacher_forced_logprobs(lm, prompts, fed, top)
        for i, (ids, nats) in enumerate(zip(top.tolist(), -log_p)):
            ids = truncate_at_eos(ids, lm.eos_ids)
            rows.append((i, kind, ids, float(nats[: len(ids)].mean())))
    frame = pd.DataFrame(rows, columns=["prompt", "kind", "ids", "nll"])
    greedy = frame[frame.kind == "greedy"].set_index("prompt").ids
    pairs = list(zip(frame.ids, frame.prompt.map(greedy)))
    frame["agreement"] = [token_agreement(a, b) for a, b in pairs]
    frame["rouge_l"] = [rouge_l(a, b) for a, b in pairs]
    return frame


def chain_parts(rows: pd.DataFrame, seed: int = 0) -> dict[str, Estimate]:
    """G7's parts; ROUGE-L and the floor of random tokens are not judged."""
    measures = ["agreement", "rouge_l", "nll"]
    wide = rows.pivot(index="prompt", columns="kind", values=measures)
    columns = {
        "agreement": ("agreement", "concept tokens"),
        "agreement_shuffled": ("agreement", "shuffled weights"),
        "agreement_random": ("agreement", "random weights"),
        "agreement_random_tokens": ("agreement", "random tokens"),
        "agreement_raw": ("agreement", "raw weights"),
        "rouge_l": ("rouge_l", "concept tokens"),
        "rouge_l_random": ("rouge_l", "random weights"),
    }
    parts = {part: bootstrap(wide[key], seed=seed) for part, key in columns.items()}
    nll = wide["nll"]
    score = (-nll[k] for k in ("concept tokens", "random weights", "greedy"))
    return parts | {"nll_score": normalised_score(*score, seed=seed)}


def agreement_by_step(rows: pd.DataFrame, steps: int, seed: int = 0) -> pd.DataFrame:
    """Share of chains of each kind whose token at a step is the greedy chain's."""
    greedy = rows[rows.kind == "greedy"].set_index("prompt").ids
    shares = []
    for kind, own in rows[rows.kind != "greedy"].groupby("kind", sort=False):
        pairs = [(ids, greedy[prompt]) for ids, prompt in zip(own.ids, own.prompt)]
        for t in range(steps):
            equal = [a[t : t + 1] == b[t : t + 1] for a, b in pairs if len(b) > t]
            if len(equal) >= FEWEST:
                e = bootstrap(equal, seed=seed)
                shares.append((kind, t + 1, e.value, e.low, e.high))
    return pd.DataFrame(shares, columns=["kind", "step", "share", "low", "high"])


def agreement_rows(
    chains: dict[str, pd.DataFrame], steps: int, seed: int = 0
) -> pd.DataFrame:
    """agreement_by_step of each model, but for the chains without clipping."""
    frames = [
        agreement_by_step(rows[rows.kind != "no clipping"], steps, seed).assign(model=m)
        for m, rows in chains.items()
    ]
    return pd.concat(frames)


def chain_means(
    lms: dict[str, LM],
    prompts: list[str],
    chains: dict[str, pd.DataFrame],
    covers: Callable | None = None,
) -> pd.DataFrame:
    """Means over prompts by model and kind, rounded; with covers also sayable_share."""
    means = []
    for name, rows in chains.items():
        mean = rows.groupby("kind", sort=False)[["agreement", "rouge_l", "nll"]].mean()
        if covers:
            some = rows[rows.kind.isin(["greedy", "concept tokens", "random weights"])]
            mean["sayable"] = sayable_share(lms[name], prompts, some, covers)
        means.append(mean.round(3).assign(model=name).reset_index())
    return pd.concat(means).set_index(["model", "kind"])


def sayable_share(
    lm: LM, prompts: list[str], rows: pd.DataFrame, covers: Callable
) -> pd.Series:
    """Share of each kind of chain whose first sentence the corpus can say.

    covers: models.corpus.covers. Prompts that it does not cover are left out.
    """
    covered = [i for i, prompt in enumerate(prompts) if covers(prompt)]
    rows = rows[rows.prompt.isin(covered)]
    sentences = [
        _first_sentence(lm, prompts[i], ids) for i, ids in zip(rows.prompt, rows.ids)
    ]
    said = pd.Series(map(covers, sentences), rows.kind)
    return said.groupby(level=0, sort=False).mean()


def _first_sentence(lm: LM, prompt: str, ids: list[int]) -> str:
    """A prompt and what follows, up to the first full stop."""
    text = prompt + lm.tokenizer.decode(ids, skip_special_tokens=True)
    return text.split(".")[0] + "." * ("." in text)


def chain_texts(
    lms: dict[str, LM],
    prompts: list[str],
    chains: dict[str, pd.DataFrame],
    kinds: tuple[str, ...] = ("greedy", "concept tokens"),
) -> pd.DataFrame:
    """The chains of these prompts, the first of each model's, as text: kinds across."""
    frames = []
    for name, rows in chains.items():
        rows = rows[rows.prompt < len(prompts)]
        texts = lms[name].tokenizer.batch_decode(list(rows.ids))
        rows = rows.assign(text=texts, prompt=[prompts[i] for i in rows.prompt])
        wide = rows.pivot(index="prompt", columns="kind", values="text")
        frames.append(wide.loc[prompts, list(kinds)].reset_index().assign(model=name))
    texts = pd.concat(frames, ignore_index=True)
    return texts[["model", "prompt", *kinds]].rename_axis(columns=None)
