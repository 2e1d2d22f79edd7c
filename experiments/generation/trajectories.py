"""Chains of concept tokens, and greedy decoding beside them (CLAIMS.md G7).

mixture_rows         the tokens mixed at each step, by prompt and model
chain_kinds          the chains compared, three of them floors
run_chains           what each kind mixes, and the model's own top token at each step
chain_rows           one row a prompt and kind: ids, agreement with greedy, NLL, sayable
chain_parts          G7's parts
agreement_by_step    agreement at each step; agreement_rows: of all models
chain_means          means by model and kind
chain_texts          the chains as text

The first token is read off the prompt, whatever is fed afterwards: agreement and NLL
are those of step 2 and later. Intervals draw whole templates (experiments.prompts).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pandas as pd
import torch

from experiments import floors
from experiments.hf_reference import truncate_at_eos
from experiments.metrics import rouge_l, token_agreement
from experiments.prompts import template_of
from experiments.scoring import pad_targets, teacher_forced_logprobs
from experiments.stats import (
    Estimate,
    bootstrap,
    clustered,
    normalised_score,
    paired_difference,
)
from helpers.decode import generate_concepts
from helpers.mixture import MixtureConfig, WeightRule, sharpened

if TYPE_CHECKING:
    from torch import Tensor

    from helpers.decode import ConceptTrace
    from helpers.models import LM

Text = tuple[int, tuple[int, ...]]  # a prompt's number, and the ids that follow it
OWN, GREEDY, RANDOM = "concept tokens", "greedy", "random weights"
UNCLIPPED = "no clipping"
UNTRUE = "what can truly be said is known for the mini models only"
FEWEST = 10  # chains that a share at one step is worked out from, or half of fewer
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
        GREEDY: (replace(plain, mode="discrete"), sharpened),
        OWN: (plain, sharpened),
        UNCLIPPED: (MixtureConfig.appendix(), sharpened),
        "raw weights": (MixtureConfig.raw(), sharpened),
        "shuffled weights": (plain, floors.shuffled(seed)),
        RANDOM: (plain, floors.random_weights(seed)),
        "random tokens": (plain, floors.random_tokens(seed)),
    }


@dataclass(frozen=True, eq=False)
class Chain:
    """One kind of chain after each prompt: what was mixed, and what the model expected.

    top (B,T): its top token at each step, whatever vector was fed before. (A floor that
    named a token at random would be beaten by anything.)
    """

    trace: ConceptTrace
    top: Tensor


def run_chains(
    lm: LM, prompts: list[str], steps: int, seed: int = 0
) -> dict[str, Chain]:
    """Run every kind of chain, past the end of a text as well."""
    chains = {}
    for kind, (config, rule) in chain_kinds(seed).items():
        top: list[Tensor] = []  # of each step, batch after batch

        def watched(logits, config, rule=rule, top=top):
            top.append(logits.argmax(-1))
            return rule(logits, config)

        trace = generate_concepts(
            lm, prompts, steps, config, weight_rule=watched, stop_at_eos=False
        )
        batches = [top[i : i + steps] for i in range(0, len(top), steps)]
        tops = torch.cat([torch.stack(batch, dim=1) for batch in batches])
        chains[kind] = Chain(trace, tops.cpu())
    return chains


def chain_rows(
    lm: LM, prompts: list[str], chains: dict[str, Chain], covers: Callable | None = None
) -> pd.DataFrame:
    """One row a prompt and kind of chain, but for prompts that end with one token.

    ids: the chain's top tokens, up to an end token. From step 2 on: agreement and
    rouge_l with the greedy chain; nll (nats a token) of the ids read as ordinary
    tokens. sayable: whether the corpus can say the prompt and the chain up to the first
    full stop; NaN without covers (that of models.corpus), or where it cannot say even
    the prompt.
    """
    rows = [
        (i, kind, tuple(truncate_at_eos(ids, lm.eos_ids)))
        for kind, chain in chains.items()
        for i, ids in enumerate(chain.top.tolist())
    ]
    frame = pd.DataFrame(rows, columns=["prompt", "kind", "ids"])
    frame = frame[frame.ids.str.len() > 1].reset_index(drop=True)
    texts = list(zip(frame.prompt, frame.ids))
    nll = text_nll(lm, prompts, list(dict.fromkeys(texts)))
    frame["nll"] = [nll[text] for text in texts]
    greedy = frame[frame.kind == GREEDY].set_index("prompt").ids
    pairs = [(a[1:], b[1:]) for a, b in zip(frame.ids, frame.prompt.map(greedy))]
    frame["agreement"] = [token_agreement(a, b) for a, b in pairs]
    frame["rouge_l"] = [rouge_l(a, b) for a, b in pairs]
    frame["template"] = [template_of(prompts[i]) for i in frame.prompt]
    frame["sayable"] = [_sayable(lm, prompts[i], ids, covers) for i, ids in texts]
    return frame


def text_nll(lm: LM, prompts: list[str], texts: list[Text]) -> dict[Text, float]:
    """NLL of texts read as ordinary tokens: nats a token, from the second token on."""
    most = max(len(ids) for _, ids in texts)
    targets, lengths = pad_targets([list(ids) for _, ids in texts], most)
    asked, fed = [prompts[i] for i, _ in texts], lm.embed[targets.to(lm.device)]
    log_p = teacher_forced_logprobs(lm, asked, fed, targets)
    nats = [float(-p[1:n].mean()) for p, n in zip(log_p, lengths.tolist())]
    return dict(zip(texts, nats))


def _sayable(lm: LM, prompt: str, ids: list[int], covers: Callable | None) -> float:
    """1 or 0: whether the corpus can say a chain's first sentence; or NaN."""
    if covers is None or not covers(prompt):
        return math.nan
    text = prompt + lm.tokenizer.decode(ids, skip_special_tokens=True)
    return float(covers(text.split(".")[0] + "." * ("." in text)))


def chain_parts(rows: pd.DataFrame, seed: int = 0) -> dict[str, Estimate]:
    """G7's parts; ROUGE-L and the floor of random tokens are not judged.

    The two of what is sayable are left out where the truth is not known.
    """
    measures = ["agreement", "rouge_l", "nll", "sayable"]
    wide = rows.pivot(index="prompt", columns="kind", values=measures)
    template = rows.groupby("prompt").template.first()
    columns = {
        "agreement": ("agreement", OWN),
        "agreement_shuffled": ("agreement", "shuffled weights"),
        "agreement_random": ("agreement", RANDOM),
        "agreement_random_tokens": ("agreement", "random tokens"),
        "agreement_raw": ("agreement", "raw weights"),
        "rouge_l": ("rouge_l", OWN),
        "rouge_l_random": ("rouge_l", RANDOM),
    }
    parts = {
        part: clustered(bootstrap, template, wide[key], seed=seed)
        for part, key in columns.items()
    }
    own, floor, ceiling = (-wide["nll", kind] for kind in (OWN, RANDOM, GREEDY))
    parts["nll_score"] = Estimate.exact(0, len(wide))  # where the floor is the ceiling
    if (ceiling - floor).sum():
        score = own, floor, ceiling
        parts["nll_score"] = clustered(normalised_score, template, *score, seed=seed)
    said = wide["sayable"].dropna()
    if len(said):
        known = template[said.index]
        parts["sayable"] = clustered(bootstrap, known, said[OWN], seed=seed)
        for part, other in (("sayable_gap", GREEDY), ("sayable_gain", RANDOM)):
            pair = said[OWN], said[other]
            parts[part] = clustered(paired_difference, known, *pair, seed=seed)
    return parts


def agreement_by_step(rows: pd.DataFrame, steps: int, seed: int = 0) -> pd.DataFrame:
    """Share of chains of each kind whose token at a step, from 2 on, is greedy's."""
    greedy = rows[rows.kind == GREEDY].set_index("prompt").ids
    shares = []
    for kind, own in rows[rows.kind != GREEDY].groupby("kind", sort=False):
        for t in range(1, steps):
            here = own[own.prompt.map(greedy).str.len() > t]
            pairs = zip(here.ids, here.prompt.map(greedy))
            equal = [a[t : t + 1] == b[t : t + 1] for a, b in pairs]
            if len(equal) >= min(FEWEST, len(own) / 2):
                e = clustered(bootstrap, here.template, equal, seed=seed)
                shares.append((kind, t + 1, e.value, e.low, e.high))
    return pd.DataFrame(shares, columns=["kind", "step", "share", "low", "high"])


def agreement_rows(
    chains: dict[str, pd.DataFrame], steps: int, seed: int = 0
) -> pd.DataFrame:
    """agreement_by_step of each model, but for the chains without clipping."""
    frames = [
        agreement_by_step(rows[rows.kind != UNCLIPPED], steps, seed).assign(model=m)
        for m, rows in chains.items()
    ]
    return pd.concat(frames)


def chain_means(chains: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Means over prompts by model and kind, rounded; sayable where it is known."""
    means = []
    for name, rows in chains.items():
        measures = rows[["kind", "agreement", "rouge_l", "nll", "sayable"]]
        mean = measures.groupby("kind", sort=False).mean().round(3)
        means.append(mean.assign(model=name).reset_index())
    return pd.concat(means).set_index(["model", "kind"]).dropna(axis=1, how="all")


def chain_texts(
    lms: dict[str, LM],
    prompts: list[str],
    chains: dict[str, pd.DataFrame],
    kinds: tuple[str, ...] = (GREEDY, OWN),
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
