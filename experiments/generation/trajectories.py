"""Chains of concept tokens against greedy decoding (CLAIMS.md G7).

kinds                  the chains compared, three of them floors
chain_rows             one row a prompt and kind: ids, likeness to greedy, NLL
chain_parts            G7's estimates
agreement_by_step      where along the chain they part
sayable                how many say what the corpus can say
texts_of               the chains as text
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd

from experiments import floors
from experiments.hf_reference import truncate_at_eos
from experiments.metrics import rouge_l, token_agreement
from experiments.scoring import teacher_forced_logprobs
from experiments.stats import Estimate, bootstrap, normalised_score
from helpers import mixture
from helpers.decode import generate_concepts
from helpers.mixture import MixtureConfig

if TYPE_CHECKING:
    from helpers.models import LM


def chain_kinds(seed: int = 0) -> dict[str, tuple]:
    """kind of chain -> settings and weight rule; the last three are floors."""
    plain = MixtureConfig()
    return {
        "greedy": (replace(plain, mode="discrete"), mixture.sharpened),
        "concept tokens": (plain, mixture.sharpened),
        "no clipping": (MixtureConfig.appendix(), mixture.sharpened),
        "raw weights": (MixtureConfig.raw(), mixture.sharpened),
        "shuffled weights": (plain, floors.shuffled(seed)),
        "random weights": (plain, floors.random_weights(seed)),
        "random tokens": (plain, floors.random_tokens(seed)),
    }


def chain_rows(lm: LM, prompts: list[str], steps: int, seed: int = 0) -> pd.DataFrame:
    """One row a prompt and kind of chain: its ids, its likeness to the greedy chain,
    and its NLL (nats a token) when read as ordinary tokens.

    Every kind says its model's top token at each step, whatever vector was fed before:
    a floor that names a token at random would be beaten by anything.
    """
    rows = []
    for kind, (config, rule) in chain_kinds(seed).items():
        trace = generate_concepts(
            lm, prompts, steps, config, weight_rule=rule, stop_at_eos=False
        )
        said, _ = teacher_forced_logprobs(lm, prompts, trace.vectors)
        _, log_p = teacher_forced_logprobs(
            lm, prompts, lm.embed[said.to(lm.device)], said
        )
        for i, (ids, nats) in enumerate(zip(said.tolist(), -log_p)):
            ids = truncate_at_eos(ids, lm.eos_ids)
            nll = float(nats[: len(ids)].mean())
            rows.append({"prompt": i, "kind": kind, "ids": ids, "nll": nll})
    frame = pd.DataFrame(rows)
    reference = frame[frame.kind == "greedy"].set_index("prompt").ids
    pairs = list(zip(frame.ids, frame.prompt.map(reference)))
    frame["agreement"] = [token_agreement(a, b) for a, b in pairs]
    frame["rouge_l"] = [rouge_l(a, b) for a, b in pairs]
    return frame


def texts_of(lm: LM, prompts: list[str], rows: pd.DataFrame) -> pd.DataFrame:
    """The chains as text: a line a prompt, a column a kind."""
    texts = lm.tokenizer.batch_decode(list(rows.ids))
    frame = rows.assign(prompt=rows.prompt.map(dict(enumerate(prompts))), text=texts)
    return frame.pivot(index="prompt", columns="kind", values="text")


def chain_parts(rows: pd.DataFrame, seed: int = 0) -> dict[str, Estimate]:
    """G7's parts; ROUGE-L and the floor of random tokens stand beside them."""
    wide = rows.pivot(index="prompt", columns="kind", values="agreement")
    nll = rows.pivot(index="prompt", columns="kind", values="nll")
    rouge = rows.pivot(index="prompt", columns="kind", values="rouge_l")
    parts = {
        "agreement": wide["concept tokens"],
        "agreement_shuffled": wide["shuffled weights"],
        "agreement_random": wide["random weights"],
        "agreement_random_tokens": wide["random tokens"],
        "agreement_raw": wide["raw weights"],
        "rouge_l": rouge["concept tokens"],
        "rouge_l_random": rouge["random weights"],
    }
    parts = {name: bootstrap(column, seed=seed) for name, column in parts.items()}
    score = (-nll[k] for k in ("concept tokens", "random weights", "greedy"))
    return parts | {"nll_score": normalised_score(*score, seed=seed)}


def agreement_by_step(rows: pd.DataFrame, steps: int, seed: int = 0) -> pd.DataFrame:
    """Share of chains of each kind whose token at a step is the greedy chain's."""
    reference = rows[rows.kind == "greedy"].set_index("prompt").ids
    out = []
    for kind, own in rows[rows.kind != "greedy"].groupby("kind", sort=False):
        pairs = [(ids, reference[prompt]) for ids, prompt in zip(own.ids, own.prompt)]
        for t in range(steps):
            there = [(a[t : t + 1], b[t : t + 1]) for a, b in pairs if len(b) > t]
            if len(there) >= 10:
                share = bootstrap([a == b for a, b in there], seed=seed)
                out.append({"kind": kind, "step": t + 1, "share": share.value,
                            "low": share.low, "high": share.high})  # fmt: skip
    return pd.DataFrame(out)


def sayable(lm: LM, prompts: list[str], rows: pd.DataFrame, covers) -> pd.Series:
    """Of each kind of chain, the share whose first sentence the corpus can say.

    covers: models.corpus.covers. Prompts that it does not cover are left out."""
    known = {i for i, prompt in enumerate(prompts) if covers(prompt)}
    rows = rows[rows.prompt.isin(known)]
    pairs = zip(rows.prompt, rows.ids)
    texts = [first_sentence(lm, prompts[i], ids) for i, ids in pairs]
    return pd.Series(map(covers, texts), rows.kind).groupby(level=0, sort=False).mean()


def first_sentence(lm: LM, prompt: str, ids: list[int]) -> str:
    """A prompt and what follows, up to the first full stop."""
    text = prompt + lm.tokenizer.decode(ids, skip_special_tokens=True)
    return text.split(".")[0] + "." * ("." in text)
