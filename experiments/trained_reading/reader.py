"""Train mini-gpt2 to read mixtures (T1).

    FOLDS          words of the sentences that a reader never trains on, and is asked
    contexts       beginnings of sentences, alike in length, that can go on in many ways
    train_reader   one reader, or its control on one-hot inputs
    update_of      what training changed, as thin matrices; merge: a model with it

A reader learns that what follows a mixture m of tokens be q = sum_i w_i P(.|tok_i), P
being the untrained model: KL(q || P(.|m)). Mixtures are of two tokens in the first
third of training, then of three, then of four. Beside it, what follows the context's
own tokens, and one member alone, is held where it was. The control takes as many steps
on the same contexts, each followed by one token, as a language model is trained.
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

from experiments.prompts import CHORES
from experiments.trained_reading.training import fit
from models.corpus import sample_document
from models.facts import CAPITALS, JOURNEYS

if TYPE_CHECKING:
    from helpers.models import LM

PLACES = (*CAPITALS, *CAPITALS.values(), *JOURNEYS, "capital", "seat of government")
FOLDS = {"chores": CHORES, "places": PLACES}
KINDS = ("reader", "control")
STEPS, PEAK_LR, WARMUP = 500, 4e-4, 30
BATCH, MIXTURES = 8, 4  # contexts a step, mixtures a context
MEMBERS = (2, 3, 4)  # tokens of a mixture, in the thirds of training
KEEP, ANCHOR = 6.0, 2.0  # weights of what is held where it was: contexts, members
LONGEST = 20  # tokens of a context
OPEN = 0.9  # its likeliest next token is less likely than that
RANK = 16  # of the change of each matrix that is kept
Report = Callable[[int, nn.Module], None]


def sentences(fold: str, rng: random.Random) -> Iterator[str]:
    """Draw sentences of the corpus, without end, but those that a fold holds out."""
    held = re.compile(r"\b(" + "|".join(map(re.escape, FOLDS[fold])) + r")\b")
    while True:
        text = sample_document(rng)
        yield from (s for s in re.findall(r"[^.]+\.", text) if not held.search(s))


def contexts(lm: LM, fold: str, seed: int, batch: int = BATCH) -> Iterator[Tensor]:
    """Draw batches (B,T) of ids that begin one to three sentences, cut where OPEN."""
    rng = random.Random(f"{fold} {seed}")
    source, waiting = sentences(fold, rng), {}
    while True:
        drawn = (rng.randint(1, 3) for _ in range(128))
        texts = ["".join(next(source) for _ in range(n)).strip() for n in drawn]
        rows = [ids[:LONGEST] for ids in lm.tokenizer(texts)["input_ids"]]
        padded = [ids + [0] * (LONGEST - len(ids)) for ids in rows]
        with torch.no_grad():
            logits = lm.model(input_ids=torch.tensor(padded)).logits
        for ids, p_max in zip(rows, logits.softmax(-1).amax(-1).tolist()):
            cuts = [t + 1 for t in range(len(ids)) if p_max[t] < OPEN]
            if cuts:
                cut = rng.choice(cuts)
                waiting.setdefault(cut, []).append(ids[:cut])
                if len(waiting[cut]) == batch:
                    yield torch.tensor(waiting.pop(cut))


def mixtures(logits: Tensor, count: int, draw: Generator) -> tuple[Tensor, Tensor]:
    """Draw weights and tokens (N,count) after logits (N,V), the heaviest first.

    Tokens as likely as the model has them; weights evenly from all there are (a flat
    Dirichlet distribution).
    """
    tokens = torch.multinomial(logits.softmax(-1) + 1e-9, count, generator=draw)
    weights = -torch.rand(tokens.shape, generator=draw).clamp_min(1e-9).log()
    weights = weights / weights.sum(-1, keepdim=True)
    return weights.sort(-1, descending=True).values, tokens


def _matrices(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """List a GPT-2's matrices between the embeddings and the head."""
    for name, module in model.named_modules():
        if type(module).__name__ == "Conv1D":
            yield name, module


def train_reader(
    lm: LM,
    fold: str,
    kind: str,
    seed: int,
    steps: int = STEPS,
    report: Report | None = None,
) -> nn.Module:
    """Train the matrices of a copy of a model, as a reader or as a control.

    report(step, model): called before the first step and after every one.
    """
    model = copy.deepcopy(lm.model).requires_grad_(False)
    parameters = [module.weight.requires_grad_() for _, module in _matrices(model)]
    optimiser = torch.optim.AdamW(parameters, betas=(0.9, 0.98), weight_decay=0.0)
    draw = torch.Generator().manual_seed(seed)
    source = contexts(lm, fold, seed)
    loss_of = _reader_loss if kind == "reader" else _control_loss

    def loss_at(step: int) -> Tensor:
        if report:
            report(step, model)
        members = MEMBERS[len(MEMBERS) * step // steps]
        return loss_of(model, lm.model, next(source), members, draw)

    def rate_at(step: int) -> float:
        rise = min(1, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2
        return PEAK_LR * rise

    fit(optimiser, loss_at, rate_at, steps, f"{kind} {fold} {seed}")
    if report:
        report(steps, model)
    return model


@torch.no_grad()
def _members(base, ids: Tensor, count: int, draw: Generator) -> tuple[Tensor, ...]:
    """Draw MIXTURES for each context -> context's logits, weights, tokens, P(.|tok)."""
    read = base(input_ids=ids, use_cache=True)
    logits = read.logits[:, -1].repeat_interleave(MIXTURES, 0)
    weights, tokens = mixtures(logits, count, draw)
    cache = read.past_key_values
    cache.batch_repeat_interleave(MIXTURES * count)
    after = base(input_ids=tokens.view(-1, 1), past_key_values=cache).logits[:, -1]
    return read.logits, weights, tokens, after.softmax(-1).view(*tokens.shape, -1)


def _reader_loss(model, base, ids: Tensor, count: int, draw: Generator) -> Tensor:
    """Compute the loss of a reader: of mixtures, of members alone, of contexts."""
    before, weights, tokens, after = _members(base, ids, count, draw)
    table = base.get_input_embeddings().weight
    q = (weights[..., None] * after).sum(1)
    mixed = (weights[..., None] * table[tokens]).sum(1)
    row = torch.arange(len(tokens))
    one = torch.randint(count, (len(tokens),), generator=draw)
    fed = torch.stack([mixed, table[tokens[row, one]]], 1).flatten(0, 1)[:, None]
    read = model(input_ids=ids, use_cache=True)
    kept = cross_entropy(read.logits.flatten(0, 1), before.softmax(-1).flatten(0, 1))
    cache = read.past_key_values
    cache.batch_repeat_interleave(2 * MIXTURES)
    said = model(inputs_embeds=fed, past_key_values=cache).logits[:, -1]
    of_mixture, of_member = said.view(len(tokens), 2, -1).unbind(1)
    held = KEEP * kept + ANCHOR * cross_entropy(of_member, after[row, one])
    return cross_entropy(of_mixture, q) + held


def _control_loss(model, base, ids: Tensor, count: int, draw: Generator) -> Tensor:
    """Compute the loss of a control: of the next token, after contexts and a member.

    Members are drawn as often as they weigh, what follows them as the base has it.
    """
    _, weights, tokens, after = _members(base, ids, count, draw)
    pick = torch.multinomial(weights, 1, generator=draw)
    after = after[torch.arange(len(pick)), pick[:, 0]]
    following = torch.multinomial(after, 1, generator=draw)
    read = model(input_ids=ids, use_cache=True)
    cache = read.past_key_values
    cache.batch_repeat_interleave(MIXTURES)
    tokens = tokens.gather(-1, pick)
    said = model(input_ids=tokens, past_key_values=cache).logits[:, -1]
    along = cross_entropy(read.logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    return cross_entropy(said, following[:, 0]) + (along if ids.shape[1] > 1 else 0)


@torch.no_grad()
def update_of(model: nn.Module, base: nn.Module) -> dict[str, Tensor]:
    """Name the change of each matrix, the RANK largest of its singular values.

    -> name.down (rows,RANK) and name.up (RANK,columns), in half precision.
    """
    found = {}
    for (name, now), (_, before) in zip(_matrices(model), _matrices(base)):
        u, s, v = torch.linalg.svd(now.weight - before.weight, full_matrices=False)
        root = s[:RANK].sqrt()
        found[f"{name}.down"] = (u[:, :RANK] * root).half().contiguous()
        found[f"{name}.up"] = (root[:, None] * v[:RANK]).half().contiguous()
    return found


@torch.no_grad()
def merge(lm: LM, update: dict[str, Tensor]) -> LM:
    """Copy a model and add an update to its matrices."""
    from helpers.models import LM

    model = copy.deepcopy(lm.model)
    for name, module in _matrices(model):
        module.weight += update[f"{name}.down"].float() @ update[f"{name}.up"].float()
    return LM(model.eval(), lm.tokenizer, lm.name)
