"""Text from no prompt of the notebook, which lenses and dictionaries are fitted to.

held_out_texts    id lists of one length
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import torch

from experiments.prompts import is_mini, natural_candidates, suites
from helpers.decode import generate_concepts
from helpers.mixture import MixtureConfig
from helpers.weight_rules import sampled
from models.corpus import sample_document

if TYPE_CHECKING:
    from helpers.models import LM


def held_out_texts(
    lm: LM, set_name: str, count: int, length: int = 32, seed: int = 0
) -> list[list[int]]:
    """Make `count` texts of `length` tokens.

    For mini models new plain documents of their corpus, as which their prompts begin.
    For others what the model itself writes, sampled at temperature 1, behind
    continuations whose wording no suite has.
    """
    if is_mini(set_name):
        return _documents(lm, count, length, seed)
    asked = {item.template for item in suites(set_name)["ambiguous"]}
    pool = [i.prompt for i in natural_candidates() if i.template not in asked]
    prompts = random.Random(seed).choices(pool, k=count)
    trace = generate_concepts(
        lm, prompts, length, MixtureConfig.raw(), weight_rule=sampled(seed),
        stop_at_eos=False,
    )  # fmt: skip
    begun = lm.tokenizer(prompts)["input_ids"]
    rows = [a + b.tolist() for a, b in zip(begun, trace.indices[:, :, 0].cpu())]
    return [row[:length] for row in rows]


def _documents(lm: LM, count: int, length: int, seed: int) -> list[list[int]]:
    """Cut new plain documents of the mini models' corpus into rows of ids."""
    draw = random.Random(f"held out {seed}")
    ids: list[int] = []
    while len(ids) < count * length:
        ids += lm.tokenizer(sample_document(draw))["input_ids"]
        ids.append(lm.tokenizer.eos_token_id)
    rows = torch.tensor(ids[: count * length]).view(count, length)
    return rows.tolist()
