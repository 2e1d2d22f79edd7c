"""Small models that think in vectors, trained here on signed sums (T2 to T4).

    KINDS        what is fed at a thought's place, and what is learned there
    new_model    a GPT-2 of this task's vocabulary, untrained
    train        one model of one kind
    think        what a model says at each step, its thoughts fed in one of several ways

All kinds have the same parameters, problems, batches and steps, and read as many
positions: four numbers, a mark, three thoughts.

    mixture    sum_v a_v E[v] of the target distribution a; learns the distribution over
               all traces (KL), which CoT2 calls continuous supervised fine-tuning
    token      the partial sums of the first best trace; learns them
    pause      a token without meaning; learns the answer alone
    hidden     the model's own last hidden state; learns what `mixture` learns
    coconut    the same, with COCONUT's curriculum: it begins as `token`, then one
               partial sum more, from the left, is replaced and no longer learned
Task, sizes, targets and the split are those of CoT2's code (2505.23648;
alperengozeten/CoT2@4978788), which trains for 1,000 epochs where this takes 40; COCONUT
is Hao et al. 2024 (2412.06769).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Generator, Tensor
from torch.nn.functional import cross_entropy
from transformers import GPT2Config, GPT2LMHeadModel

from experiments.trained_reading.signed_sums import (
    COUNT,
    EQUALS,
    LARGEST,
    PAUSE,
    VOCABULARY,
    Problems,
)
from experiments.trained_reading.training import fit

KINDS = ("mixture", "token", "pause", "hidden", "coconut")
THOUGHTS = COUNT - 1
WIDTHS = (16, 24, 32)
WIDTH, LAYERS, HEADS = WIDTHS[-1], 2, 2
STEPS, BATCH, PEAK_LR, WARMUP = 2500, 128, 4e-3, 100
STAGES = (0.15, 0.3, 0.45)  # of training: there coconut replaces one thought more

Feed = Callable[[int, Tensor, Tensor], Tensor]


def new_model(width: int = WIDTH, seed: int = 0) -> GPT2LMHeadModel:
    """Make an untrained model, its head tied to its embeddings."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=COUNT + 1 + THOUGHTS,
        n_embd=width,
        n_layer=LAYERS,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=EQUALS,
        eos_token_id=PAUSE,
    )
    return GPT2LMHeadModel(config)


def train(
    kind: str, problems: Problems, width: int = WIDTH, seed: int = 0, steps: int = STEPS
) -> GPT2LMHeadModel:
    """Train one model of a kind; seed: of its weights and of the order of problems.

    ValueError for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: expected one of {', '.join(KINDS)}")
    model = new_model(width, seed)
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98))
    draw = torch.Generator().manual_seed(seed)

    def loss_at(step: int) -> Tensor:
        batch = problems.take(torch.randint(len(problems), (BATCH,), generator=draw))
        return _loss(model, kind, batch, step / steps)

    rate_at = partial(learning_rate, steps=steps)
    fit(optimiser, loss_at, rate_at, steps, f"{kind} {width} {seed}")
    return model.eval()


def learning_rate(step: int, steps: int) -> float:
    """Rise over WARMUP steps, then fall as a cosine does to 2 % of the peak."""
    if step < WARMUP:
        return PEAK_LR * (step + 1) / WARMUP
    turn = (step - WARMUP) / max(1, steps - WARMUP)
    return PEAK_LR * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * turn)))


def _loss(model: GPT2LMHeadModel, kind: str, batch: Problems, done: float) -> Tensor:
    """Compute a batch's loss. done: share of the training that is over."""
    table, spread = model.transformer.wte.weight, batch.spread
    if kind == "mixture":
        logits = _in_parallel(model, batch, spread[:, :THOUGHTS] @ table)
        return cross_entropy(logits.flatten(0, 1), spread.flatten(0, 1))
    if kind == "hidden":
        logits = _one_by_one(model, batch, lambda t, logits, hidden: hidden)
        return cross_entropy(logits.flatten(0, 1), spread.flatten(0, 1))
    fed = table[batch.trace[:, :THOUGHTS]]
    if kind == "pause":
        logits = _in_parallel(model, batch, table[PAUSE].expand_as(fed))
        return cross_entropy(logits[:, -1], batch.answer)
    replaced = sum(done >= stage for stage in STAGES) if kind == "coconut" else 0

    def feed(t: int, logits: Tensor, hidden: Tensor) -> Tensor:
        return hidden if t < replaced else fed[:, t]

    logits = _one_by_one(model, batch, feed) if replaced else None
    logits = _in_parallel(model, batch, fed) if logits is None else logits
    learned = batch.trace[:, replaced:]
    return cross_entropy(logits[:, replaced:].flatten(0, 1), learned.flatten())


def _question(model: GPT2LMHeadModel, batch: Problems) -> Tensor:
    """Embed the numbers and the mark behind them: (N,5,D)."""
    mark = torch.full_like(batch.numbers[:, :1], EQUALS)
    return model.transformer.wte(torch.cat([batch.numbers, mark], 1))


def _in_parallel(model: GPT2LMHeadModel, batch: Problems, fed: Tensor) -> Tensor:
    """Compute logits (N,4,V) at the mark and after each of the thoughts fed (N,3,D)."""
    fed = torch.cat([_question(model, batch), fed], 1)
    return model(inputs_embeds=fed, use_cache=False, logits_to_keep=COUNT).logits


def _one_by_one(model: GPT2LMHeadModel, batch: Problems, feed: Feed) -> Tensor:
    """Compute logits (N,4,V) where a thought is made of what the model said before it.

    feed: step, logits (N,V), last hidden state (N,D) -> the thought (N,D) fed next.
    """
    fed, cache, found = _question(model, batch), None, []
    for t in range(COUNT):
        out = model.transformer(
            inputs_embeds=fed, past_key_values=cache, use_cache=True
        )
        hidden, cache = out.last_hidden_state[:, -1], out.past_key_values
        found.append(model.lm_head(hidden))
        if t < THOUGHTS:
            fed = feed(t, found[-1], hidden)[:, None]
    return torch.stack(found, 1)


@torch.no_grad()
def think(
    model: GPT2LMHeadModel,
    problems: Problems,
    way: str | Sequence[str],
    seed: int = 0,
    fixed: Mapping[int, Tensor] | None = None,
) -> Tensor:
    """Compute the logits (N,4,V) of every step; the last are the answer's.

    way: of all thoughts, or of each. "soft" feeds sum_v p_v E[v] of the model's own
    probabilities, "top" the likeliest token, "shuffled" the same weights with the
    likeliest token kept and the others dealt to other sums at random, "other" the
    mixture of another problem, "K draws" the average of K drawn tokens, "pause" the
    pause token, "hidden" the last hidden state. fixed: step, from 0 -> weights (N,V) of
    what is fed there, whatever the way.
    """
    table = model.transformer.wte.weight
    draw = torch.Generator().manual_seed(seed)
    ways = (way,) * THOUGHTS if isinstance(way, str) else way

    def feed(t: int, logits: Tensor, hidden: Tensor) -> Tensor:
        if fixed and t in fixed:
            return fixed[t] @ table
        if ways[t] == "hidden":
            return hidden
        if ways[t] == "pause":
            return table[PAUSE].expand_as(hidden)
        return _weights(logits.softmax(-1), ways[t], draw) @ table

    return _one_by_one(model, problems, feed)


def _weights(p: Tensor, way: str, draw: Generator) -> Tensor:
    """Choose the weights (N,V) of what is fed, from probabilities (N,V)."""
    if way == "soft":
        return p
    if way == "top":
        return torch.nn.functional.one_hot(p.argmax(-1), p.shape[-1]).to(p)
    if way == "other":
        return p[torch.randperm(len(p), generator=draw)]
    if way == "shuffled":
        sums = torch.zeros(p.shape[-1]).index_fill(0, torch.arange(LARGEST, EQUALS), 1)
        order = torch.rand(p.shape, generator=draw) + sums
        order = order.scatter(-1, p.argmax(-1, keepdim=True), 3).argsort(-1).flip(-1)
        return torch.zeros_like(p).scatter(-1, order, p.sort(-1).values.flip(-1))
    count = int(way.split()[0])
    drawn = torch.multinomial(p, count, replacement=True, generator=draw)
    share = torch.full_like(drawn, 1, dtype=p.dtype) / count
    return torch.zeros_like(p).scatter_add(-1, drawn, share)
