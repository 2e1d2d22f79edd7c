"""What a mixture, a hidden state and an aligned hidden state are, as vectors fed.

    vector_rows     each kind of vector after each prompt: norm, nearest token, cost
    vector_table    their means, with intervals, by model and kind
    vector_text     the same as text, one row a model and kind
    other_texts     what an aligner is fitted on

COCONUT (2412.06769) feeds back the last hidden state, the write-up a mixture of
embeddings. Intervals draw whole templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd
import torch

from experiments.metrics import nearest_rows
from experiments.prefixes import logits_after
from experiments.stats import bootstrap, clustered
from helpers.batching import prompt_embeds
from helpers.decode import continue_from
from helpers.mixture import MixtureConfig, apply_norm, mix, mixture_weights, norm_bounds
from helpers.step_modes import fit_aligner, hidden_state

if TYPE_CHECKING:
    from experiments.prompts import Item
    from helpers.models import LM

KINDS = ("top token", "mixture", "hidden state", "hidden state, norm restored")
KINDS += ("hidden state, aligned",)
GOING_ON = 8  # tokens that an aligner sees of what follows a prompt
COLUMNS = ("norm", "cosine", "is_top", "nll")


@torch.no_grad()
def vector_rows(lm: LM, items: Sequence[Item], texts: Sequence[str]) -> pd.DataFrame:
    """Describe the vector of each kind after each prompt, one row each.

    norm over the embeddings' mean norm; cosine to the nearest token; is_top, whether
    that is the likeliest next token; nll, in nats, of the token that greedy decoding
    says after the top token. texts: what the aligner is fitted on.
    """
    prompts = [item.prompt for item in items]
    contexts = [prompt_embeds(lm, prompt)[0][0] for prompt in prompts]
    read = [
        lm.model(inputs_embeds=c[None], output_hidden_states=True) for c in contexts
    ]
    logits = torch.cat([out.logits[:, -1] for out in read])
    hidden = torch.cat([out.hidden_states[-1][:, -1] for out in read])
    config = MixtureConfig()
    probs, indices, _ = mixture_weights(logits, config)
    bounds = norm_bounds(lm.embed, config.norm, lm.used)
    concept = mix(probs, indices, lm.embed)
    concept = apply_norm(concept, probs, indices, bounds, config.norm)
    top = indices[:, 0]
    feeds = [hidden_state(lm, norm="none"), hidden_state(lm)]
    feeds.append(hidden_state(lm, fit_aligner(lm, texts), norm="none"))
    made = [lm.embed[top], concept, *(feed(concept, hidden) for feed in feeds)]
    owners, mean = list(range(len(items))), lm.embed.norm(dim=-1).mean()
    after = [logits_after(lm, contexts, owners, v).log_softmax(-1) for v in made]
    following = after[0].argmax(-1, keepdim=True)
    frames = []
    for kind, vectors, said in zip(KINDS, made, after):
        nearest = nearest_rows(vectors, lm.embed)
        near = torch.cosine_similarity(vectors, lm.embed[nearest])
        columns = {"norm": vectors.norm(dim=-1) / mean, "cosine": near}
        columns |= {"is_top": (nearest == top).float()}
        columns |= {"nll": -said.gather(-1, following)[:, 0]}
        row = {"kind": kind, "template": [item.template for item in items]}
        row |= {name: column.tolist() for name, column in columns.items()}
        frames.append(pd.DataFrame(row))
    return pd.concat(frames, ignore_index=True)


def vector_table(rows: dict[str, pd.DataFrame], seed: int = 0) -> pd.DataFrame:
    """Average vector_rows of each model by kind: what, value, low, high, n."""
    found = []
    for model, frame in rows.items():
        for kind, part in frame.groupby("kind", sort=False):
            for what in COLUMNS:
                e = clustered(bootstrap, part.template, part[what], seed=seed)
                found.append({"kind": kind, "model": model, "what": what, **vars(e)})
    return pd.DataFrame(found)


def vector_text(table: pd.DataFrame) -> pd.DataFrame:
    """Write vector_table as text, one row a model and kind."""
    text = [f"{r.value:.2f} [{r.low:.2f}, {r.high:.2f}]" for r in table.itertuples()]
    keys = ["model", "kind"]
    wide = table.assign(text=text).pivot(index=keys, columns="what", values="text")
    order = pd.MultiIndex.from_frame(table[keys].drop_duplicates())
    return wide.reindex(order)[list(COLUMNS)]


def other_texts(
    lm: LM, asked: Mapping[str, Sequence[Item]], items: Sequence[Item]
) -> list[str]:
    """List a set's open prompts that are not among the items, as the model goes on."""
    used = {item.prompt for item in items}
    kinds = ("ambiguous", "capitals", "sums")
    others = [i.prompt for kind in kinds for i in asked[kind] if i.prompt not in used]
    said = continue_from(lm, *prompt_embeds(lm, others), max_new_tokens=GOING_ON)
    return [prompt + text for prompt, text in zip(others, said)]
