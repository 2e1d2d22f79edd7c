"""Small models that search a graph in thoughts: COCONUT and its controls (T5, T6).

    ARMS        what stands between a question and its answer, and what is learned there
    new_model   a GPT-2 of this task's vocabulary, untrained
    train       one model of one arm
    reply       the answers of a model, and what it thought
    known, held_out   what is trained on, and what is asked

All arms have the same parameters, graphs and batches, and all but two as many steps.

    none      nothing; learns the answer alone
    text      the path, node by node; learns path and answer
    pause     with COCONUT's curriculum: it begins as `text`, then one node more, from
              the left, is replaced by a pause token and no longer learned
    coconut   the same, replaced by the model's own last hidden state
    none_long, pause_long   as none and pause, with LONGER times as many steps

What they cost: a training step calls the model once, and for coconut with k nodes
replaced k + 2 times, its prompt only once: 3.9 times on average over STAGES. An answer
takes 2 calls with nothing before it, LONGEST + 2 with thoughts of either kind or text.

COCONUT is Hao et al. 2024 (2412.06769); two layers and single tokens for nodes as in
Zhu et al. 2025 (2505.12514). Their edges are three tokens, which the first layer must
learn to join; here an edge is one position, the sum of two embeddings, "from a" and
"b", so that minutes of training are enough.
"""

from __future__ import annotations

from functools import cache, partial

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import Cache, GPT2Config, GPT2LMHeadModel

from experiments.trained_reading.graphs import (
    ANSWER,
    FROM,
    LONGEST,
    PAUSE,
    PROMPT,
    VOCABULARY,
    Graphs,
    Questions,
    ask,
    make_graphs,
)
from experiments.trained_reading.training import fit

WIDTH, LAYERS, HEADS = 48, 2, 4
STEPS, BATCH, PEAK_LR, WARMUP = 2500, 64, 3e-3, 100
LONGER = 4  # as coconut calls its model 3.9 times in a step
ARMS = {  # name -> what precedes the answer, steps of training
    "none": ("none", STEPS),
    "pause": ("pause", STEPS),
    "text": ("text", STEPS),
    "coconut": ("coconut", STEPS),
    "none_long": ("none", LONGER * STEPS),
    "pause_long": ("pause", LONGER * STEPS),
}
STAGES = (0.3, 0.4, 0.5, 0.6)  # of training: there one node more is replaced
KNOWN, ASKED = 20_000, 2_000  # graphs to train on, and held out
IGNORED = -100  # no label, to cross_entropy


def known() -> Graphs:
    """Make the graphs that are trained on."""
    return make_graphs(KNOWN, seed=0)


@cache
def held_out() -> Questions:
    """Make the questions that are asked: a graph each, of kinds not trained on."""
    graphs = make_graphs(ASKED, seed=1, held_out=True)
    return ask(graphs, torch.Generator().manual_seed(1))


def new_model(seed: int = 0) -> GPT2LMHeadModel:
    """Make an untrained model, its head tied to its embeddings (of length about 1)."""
    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=PROMPT + LONGEST + 1,
        n_embd=WIDTH,
        n_layer=LAYERS,
        n_head=HEADS,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=ANSWER,
        eos_token_id=PAUSE,
    )
    model = GPT2LMHeadModel(config)
    for table in (model.transformer.wte, model.transformer.wpe):
        torch.nn.init.normal_(table.weight, std=WIDTH**-0.5)
    return model


def train(
    arm: str, graphs: Graphs, seed: int = 0, steps: int | None = None
) -> GPT2LMHeadModel:
    """Train one model of an arm; seed: of its weights and of the questions.

    steps: the arm's, or fewer to try it. ValueError for an unknown arm.
    """
    if arm not in ARMS:
        raise ValueError(f"arm {arm!r}: expected one of {', '.join(ARMS)}")
    between, of_arm = ARMS[arm]
    steps = steps or of_arm
    model = new_model(seed)
    optimiser = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98))
    draw = torch.Generator().manual_seed(seed)

    def loss_at(step: int) -> Tensor:
        picked = torch.randint(len(graphs), (BATCH,), generator=draw)
        replaced = sum(step / steps >= stage for stage in STAGES)
        return _loss(model, between, ask(graphs.take(picked), draw), replaced)

    rate_at = partial(learning_rate, steps=steps)
    fit(optimiser, loss_at, rate_at, steps, f"{arm} {seed}")
    return model.eval()


def learning_rate(step: int, steps: int) -> float:
    """Rise over WARMUP steps, stay, and fall over the last fifth to 2 % of the peak."""
    if step < WARMUP:
        return PEAK_LR * (step + 1) / WARMUP
    left = (steps - step) / (0.2 * steps)
    return PEAK_LR * (0.02 + 0.98 * min(1.0, left))


def _loss(
    model: GPT2LMHeadModel, between: str, batch: Questions, replaced: int
) -> Tensor:
    """Compute a batch's loss. replaced: how many nodes are thoughts by now."""
    embed, question = model.transformer.wte, _question(model, batch)
    if between == "none":
        mark = embed(torch.full_like(batch.answer, ANSWER))[:, None]
        hidden, _ = _run(model, torch.cat([question, mark], 1))
        return cross_entropy(model.lm_head(hidden[:, -1]), batch.answer)
    text = _text(batch, 0 if between == "text" else replaced)
    fed = embed(text[:, :-1].clamp_min(0))
    if between == "coconut" and replaced:
        states, cache = _think(model, question, between, replaced)
        rest, _ = _run(model, fed, cache)
        hidden = torch.cat([states[:, -1:], rest], 1)
    else:
        count = replaced if between == "pause" else 0
        pauses = embed.weight[PAUSE].expand(len(fed), count, -1)
        hidden, _ = _run(model, torch.cat([question, pauses, fed], 1))
    logits = model.lm_head(hidden[:, -text.shape[1] :])
    return cross_entropy(logits.flatten(0, 1), text.flatten(), ignore_index=IGNORED)


def _text(batch: Questions, replaced: int) -> Tensor:
    """Write what is left of the path, the mark and the answer: (N,LONGEST+2-replaced).

    IGNORED stands behind the answers of shorter paths.
    """
    place = torch.arange(LONGEST + 2)
    mark = batch.depth[:, None].clamp_min(replaced)
    text = torch.nn.functional.pad(batch.path, (0, 2))
    text = text.masked_fill(place == mark, ANSWER).masked_fill(place > mark, IGNORED)
    text = torch.where(place == mark + 1, batch.answer[:, None], text)
    return text[:, replaced:]


def _question(model: GPT2LMHeadModel, asked: Questions) -> Tensor:
    """Embed edges, candidates and start: (N,PROMPT,D)."""
    embed = model.transformer.wte
    edges = embed(asked.edges[..., 0] + FROM) + embed(asked.edges[..., 1])
    return torch.cat([edges, embed(asked.named)], 1)


def _run(
    model: GPT2LMHeadModel, fed: Tensor, cache: Cache | None = None
) -> tuple[Tensor, Cache]:
    """Feed vectors (N,T,D) -> last hidden states (N,T,D) and the cache."""
    out = model.transformer(inputs_embeds=fed, past_key_values=cache, use_cache=True)
    return out.last_hidden_state, out.past_key_values


def _think(
    model: GPT2LMHeadModel, question: Tensor, between: str, thoughts: int
) -> tuple[Tensor, Cache]:
    """Feed a question, then thoughts -> hidden states before and at them, the cache.

    States (N,thoughts+1,D): number c is what coconut feeds as thought c + 1.
    """
    hidden, cache = _run(model, question)
    states = [hidden[:, -1]]
    for _ in range(thoughts):
        fed = states[-1]
        if between == "pause":
            fed = model.transformer.wte.weight[PAUSE].expand_as(fed)
        hidden, cache = _run(model, fed[:, None], cache)
        states.append(hidden[:, -1])
    return torch.stack(states, 1), cache


@torch.no_grad()
def reply(
    model: GPT2LMHeadModel, between: str, asked: Questions, thoughts: int = LONGEST
) -> tuple[Tensor, Tensor]:
    """Answer questions -> tokens (N,), and hidden states (N,T,D).

    between: none, pause, text or coconut, whatever the model was trained with. State
    number c is what coconut feeds, or would, as thought c + 1. Without thoughts there
    is one state, the question's. text writes a path first, greedily.
    """
    thoughts = 0 if between in ("none", "text") else thoughts
    states, cache = _think(model, _question(model, asked), between, thoughts)
    mark = torch.full_like(asked.answer, ANSWER)
    said = model.lm_head(states[:, -1]).argmax(-1) if between == "text" else mark
    answer, fed = torch.full_like(mark, PAUSE), torch.zeros_like(mark).bool()
    for left in range(LONGEST if between == "text" else 0, -1, -1):
        said = said if left else mark  # too long a path: the answer now
        now = (said == ANSWER) & ~fed
        hidden, cache = _run(model, model.transformer.wte(said)[:, None], cache)
        said = model.lm_head(hidden[:, -1]).argmax(-1)
        answer, fed = answer.where(~now, said), fed | now
    return answer, states
