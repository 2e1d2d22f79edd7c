"""Train mini-gpt2 to read mixtures, by a low-rank update (T1).

    FOLDS            which sentences a reader never trains on, and is asked about
    Contexts         beginnings of sentences, of one length a batch
    train_reader     one reader, or its control on one-hot inputs
    low_rank, merge  the update as a few small matrices, and a model that has it

A reader learns that what follows a mixture m of tokens be q = sum_i w_i P(.|tok_i), P
being the untrained model: KL(q || P(.|m)). Mixtures are of two tokens in the first
third of training, then of three, then of four. Beside it, what the context's own tokens
predict is held where it was. The control takes as many steps on the same contexts, each
followed by one token, of which it learns the next as any language model does.
"""

from __future__ import annotations

import copy
import math
import random
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
from torch import Generator, Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrize
from tqdm import trange

from experiments.prompts import CHORES
from models.corpus import sample_document
from models.facts import CAPITALS, JOURNEYS

if TYPE_CHECKING:
    from helpers.models import LM

PLACES = (*CAPITALS, *CAPITALS.values(), *JOURNEYS, "capital", "seat of government")
FOLDS = {"chores": CHORES, "places": PLACES}  # words of the sentences held out
KINDS = ("reader", "control")
RANK, STEPS, BATCH, PEAK_LR = 4, 300, 32, 4e-3
LONGEST = 20  # tokens of a context
MEMBERS = (2, 3, 4)  # tokens of a mixture, in the thirds of training
Report = Callable[[int, nn.Module], None]


class LowRank(nn.Module):
    """A weight plus the product of two thin matrices, of which one begins at 0."""

    def __init__(self, weight: Tensor, draw: Generator):
        super().__init__()
        down = (
            torch.randn(weight.shape[0], RANK, generator=draw) / weight.shape[0] ** 0.5
        )
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(torch.zeros(RANK, weight.shape[1]))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.down @ self.up


def _matrices(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """List a GPT-2's matrices between the embeddings and the head."""
    for name, module in model.named_modules():
        if type(module).__name__ == "Conv1D":
            yield name, module


def low_rank(model: nn.Module, seed: int) -> nn.Module:
    """Copy a model, frozen but for a low-rank update of each of its matrices."""
    model = copy.deepcopy(model).requires_grad_(False)
    draw = torch.Generator().manual_seed(seed)
    for _, module in list(_matrices(model)):
        update = LowRank(module.weight, draw)
        parametrize.register_parametrization(module, "weight", update)
    return model


def update_of(model: nn.Module) -> dict[str, Tensor]:
    """Name the thin matrices of a model that low_rank made, in half precision."""
    return {
        name.replace(".parametrizations.weight.0", ""): p.detach().half()
        for name, p in model.named_parameters()
        if p.requires_grad
    }


def merge(lm: LM, update: dict[str, Tensor]) -> LM:
    """Copy a model and add an update to its matrices."""
    from helpers.models import LM

    model = copy.deepcopy(lm.model)
    with torch.no_grad():
        for name, module in _matrices(model):
            down, up = (update[f"{name}.{side}"].float() for side in ("down", "up"))
            module.weight += down @ up
    return LM(model.eval(), lm.tokenizer, lm.name)


def sentences(fold: str, rng: random.Random) -> Iterator[str]:
    """Draw sentences of the corpus, without end, but those that a fold holds out."""
    held = re.compile(r"\b(" + "|".join(map(re.escape, FOLDS[fold])) + r")\b")
    while True:
        text = sample_document(rng)
        yield from (s for s in re.findall(r"[^.]+\.", text) if not held.search(s))


def contexts(tokenizer, fold: str, seed: int, batch: int = BATCH) -> Iterator[Tensor]:
    """Draw batches (B,T) of beginnings of one to three sentences, alike in length."""
    rng = random.Random(f"{fold} {seed}")
    source, waiting = sentences(fold, rng), {}
    while True:
        text = "".join(next(source) for _ in range(rng.randint(1, 3))).strip()
        ids = tokenizer(text)["input_ids"]
        cut = rng.randint(1, min(len(ids), LONGEST))
        same = waiting.setdefault(cut, [])
        same.append(ids[:cut])
        if len(same) == batch:
            yield torch.tensor(waiting.pop(cut))


def mixtures(logits: Tensor, count: int, draw: Generator) -> tuple[Tensor, Tensor]:
    """Draw weights and tokens (B,count) after logits (B,V), the heaviest first.

    Tokens are drawn at temperature 2, so that unlikely ones are among them; weights
    evenly from all there are (a flat Dirichlet distribution).
    """
    tokens = torch.multinomial((logits / 2).softmax(-1), count, generator=draw)
    weights = -torch.rand(tokens.shape, generator=draw).clamp_min(1e-9).log()
    weights = (weights / weights.sum(-1, keepdim=True)).sort(-1, descending=True)
    return weights.values, tokens


def train_reader(
    lm: LM,
    fold: str,
    kind: str,
    seed: int,
    steps: int = STEPS,
    report: Report | None = None,
) -> nn.Module:
    """Train one reader or control, and return it with its update.

    report(step, model): called before the first step and after every one.
    """
    torch.set_num_threads(1)
    model, base = low_rank(lm.model, seed), lm.model
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.0)
    draw = torch.Generator().manual_seed(seed)
    source = contexts(lm.tokenizer, fold, seed)
    bar = trange(steps, desc=f"{kind} {fold} {seed}", disable=None, leave=False)
    for step in bar:
        if report:
            report(step, model)
        members = MEMBERS[len(MEMBERS) * step // steps]
        loss = _loss(model, base, kind, next(source), members, draw)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        cosine = (1 + math.cos(math.pi * step / steps)) / 2
        optimiser.param_groups[0]["lr"] = PEAK_LR * cosine
        optimiser.step()
    if report:
        report(steps, model)
    return model


def _loss(
    model: nn.Module, base: nn.Module, kind: str, ids: Tensor, members: int, draw
) -> Tensor:
    """Compute a batch's loss, for ids (B,T)."""
    table = base.get_input_embeddings().weight
    with torch.no_grad():
        before = base(input_ids=ids, use_cache=True)
        weights, tokens = mixtures(before.logits[:, -1], members, draw)
        if kind == "control":  # one of the members, as often as it weighs
            pick = torch.multinomial(weights, 1, generator=draw)
            weights, tokens = torch.ones_like(pick).float(), tokens.gather(-1, pick)
        cache, count = before.past_key_values, tokens.shape[1]
        cache.batch_repeat_interleave(count)
        after = base(input_ids=tokens.reshape(-1, 1), past_key_values=cache).logits
        after = after[:, -1].softmax(-1).view(len(ids), count, -1)
        q = (weights[..., None] * after).sum(1)
    mixed = (weights[..., None] * table[tokens]).sum(1, keepdim=True)
    logits = model(inputs_embeds=torch.cat([table[ids], mixed], 1)).logits
    if kind == "control":
        following = torch.cat(
            [ids[:, 1:], tokens, torch.multinomial(q, 1, generator=draw)], 1
        )
        return cross_entropy(logits.flatten(0, 1), following.flatten())
    kept = before.logits.softmax(-1)
    keep = cross_entropy(logits[:, :-1].flatten(0, 1), kept.flatten(0, 1))
    return cross_entropy(logits[:, -1], q) + keep
