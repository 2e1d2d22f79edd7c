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
from models.corpus import KINDS, sample_document

if TYPE_CHECKING:
    from helpers.models import LM


def held_out_texts(
    lm: LM, name: str, set_name: str, count: int, length: int = 32, seed: int = 0
) -> list[list[int]]:
    """Make `count` texts of `length` tokens: about half of each model's own words.

    Of a mini model, new documents of its corpus. Of others, what the model itself
    writes (sampled at temperature 1) behind continuations whose wording no suite has.
    """
    if is_mini(set_name) and name in KINDS:
        return _documents(lm, name, count, length, seed)
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


def _documents(
    lm: LM, name: str, count: int, length: int, seed: int
) -> list[list[int]]:
    """Cut new documents of a mini model's corpus into rows of ids."""
    draw = random.Random(f"{name} held out {seed}")
    ids: list[int] = []
    while len(ids) < count * length:
        ids += lm.tokenizer(sample_document(draw, name))["input_ids"]
        ids.append(lm.tokenizer.eos_token_id)
    rows = torch.tensor(ids[: count * length]).view(count, length)
    return rows.tolist()
