"""The one decoding loop: batched, cached, and the same code on CPU, CUDA and MPS.

    generate_concepts   prompts -> ConceptTrace: each step's weights and mixed vector
    continue_from       embeddings -> new text, greedily
    concept_decoding    the same loop as a plug-in for model.generate(custom_generate=)
    prompt_embeds, left_pad, next_logits   what the experiments build on

A step is weights -> vector -> one forward call on the new position alone. Nothing in it
waits for the device: masks and positions are prepared once, stopping is a mask on the
device, looked at every CHECK_EVERY steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from tqdm.auto import tqdm

from .mixture import (
    MixtureConfig,
    WeightRule,
    clip_norm,
    mix,
    norm_bounds,
    sharpened,
    weigh,
)

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor

    from .models import LM

CHECK_EVERY = 8  # steps between two looks at the stop mask


@dataclass(frozen=True, eq=False)
class ConceptTrace:
    """What each step mixed. B prompts, T steps, K kept tokens, D width.

    probs, indices (B,T,K) sorted; entropy (B,T) nats, of the full softmax; vectors
    (B,T,D) as fed to the model; mixed (B,T) where the mixture, not the top token, was
    fed; lengths (B,) steps that count: entries past a row's length are zero.
    """

    probs: Tensor
    indices: Tensor
    entropy: Tensor
    vectors: Tensor
    mixed: Tensor
    lengths: Tensor
    tokenizer: object = None

    @property
    def tokens(self) -> list[list[int]]:
        """The argmax chain of each prompt: its top tokens up to its length."""
        ids = self.indices[..., 0].tolist()
        return [row[:n] for row, n in zip(ids, self.lengths.tolist())]

    def to_frame(self, top: int = 5) -> pd.DataFrame:
        """Tidy rows, one a prompt, step and rank: token, its weight, the step's entropy."""
        import pandas as pd

        rows = []
        probs, ids, entropy = (
            x.tolist() for x in (self.probs, self.indices, self.entropy)
        )
        for b, length in enumerate(self.lengths.tolist()):
            for t in range(length):
                for k, (p, i) in enumerate(zip(probs[b][t][:top], ids[b][t])):
                    token = self.tokenizer.decode([i]) if self.tokenizer else str(i)
                    rows.append((b, t + 1, k + 1, i, token, p, entropy[b][t]))
        names = ["prompt", "step", "rank", "id", "token", "prob", "entropy"]
        return pd.DataFrame(rows, columns=names)


def generate_concepts(
    lm: LM,
    prompts: str | list | None = None,
    steps: int = 2,
    config: MixtureConfig | None = None,
    *,
    inputs_embeds: Tensor | None = None,
    attention_mask: Tensor | None = None,
    weight_rule: WeightRule = sharpened,
    stop_at_eos: bool = True,
    compile: bool = False,
    batch_size: int = 64,
    progress: bool | None = None,
) -> ConceptTrace:
    """Run the mixture loop for `steps` steps after each prompt (write-up 3.1).

    prompts: a text, or a list of texts or of token-id lists; or else inputs_embeds
    (B,T,D) with a left-padded attention_mask (B,T). Step t's vector is fed back to get
    step t+1, so the first is read off the prompt and the last is not read at all.
    weight_rule: any `rule(logits, config) -> (probs, indices)` of helpers.mixture.
    stop_at_eos: a row ends with the step whose top token ends a text.
    compile: torch.compile and a static cache; slow first call, same tokens.
    Raises ValueError before the first step for an empty or too long prompt or bad
    settings, and names the step when the logits are NaN, +inf or all -inf.
    """
    config = config or MixtureConfig()
    _check_steps("steps", steps)
    embeds, mask = _inputs(lm, prompts, inputs_embeds, attention_mask, steps)
    eos = lm.eos_ids if stop_at_eos else ()
    bounds = _bounds(lm, config.norm)
    parts = []
    chunks = _chunks(lm, embeds, mask, batch_size)
    with tqdm(total=len(chunks) * steps, disable=_quiet(progress), delay=1) as bar:
        for start, (x, m) in chunks:
            advance = _advancer(lm, x, m, steps, config, weight_rule, bounds, compile)
            parts.append(_loop(advance, x, steps, _stopper(config, eos), bar, start))
    columns = [torch.cat([_pad(c, steps) for c in column]) for column in zip(*parts)]
    return ConceptTrace(*columns, tokenizer=lm.tokenizer)


def continue_from(
    lm: LM,
    inputs_embeds: Tensor | list,
    attention_mask: Tensor | None = None,
    max_new_tokens: int = 50,
    *,
    return_ids: bool = False,
    compile: bool = False,
    batch_size: int = 64,
) -> list:
    """Greedy text after embeddings: only the new text, nothing sliced off -> list[str].

    inputs_embeds (T,D), (B,T,D) with a left-padded attention_mask (B,T), or a list of
    (T,D) of any lengths. Stops at EOS, skips special tokens. return_ids: the new token
    ids instead, the EOS included, as list[list[int]].
    """
    if isinstance(inputs_embeds, (list, tuple)):
        inputs_embeds, attention_mask = left_pad(inputs_embeds)
    if inputs_embeds.ndim == 2:
        inputs_embeds = inputs_embeds[None]
    _check_steps("max_new_tokens", max_new_tokens)
    greedy = MixtureConfig(top_k=1, mode="discrete", norm="none")
    trace = generate_concepts(
        lm, steps=max_new_tokens, config=greedy, inputs_embeds=inputs_embeds,
        attention_mask=attention_mask, compile=compile, batch_size=batch_size,
    )  # fmt: skip
    if return_ids:
        return trace.tokens
    return lm.tokenizer.batch_decode(trace.tokens, skip_special_tokens=True)


def concept_decoding(config: MixtureConfig | None = None, weight_rule=sharpened):
    """The loop as a plug-in: model.generate(**inputs, custom_generate=concept_decoding()).

    generate() prepares inputs, processors and stopping criteria; the loop feeds mixtures
    and returns what generate() returns: prompt ids followed by the argmax ids, padded
    after a row has stopped. Logits processors of the generation config (a repetition
    penalty, say) act before the weights, on the argmax ids. Beams and a cache that
    already holds a prefix are refused.
    """
    config = config or MixtureConfig()

    def decode(
        model, input_ids, logits_processor, stopping_criteria, generation_config, **given
    ):
        from .models import LM

        if generation_config.num_beams > 1 or generation_config.num_return_sequences > 1:
            raise ValueError("concept_decoding takes one beam and one sequence a prompt")
        cache = given.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            raise ValueError("concept_decoding starts from an empty past_key_values")
        lm = LM(model)
        embeds = given.get("inputs_embeds")
        if embeds is None:
            embeds = model.get_input_embeddings()(input_ids)
        steps = stopping_criteria.max_length - input_ids.shape[1]
        process = logits_processor if len(logits_processor) else None
        mask = given.get("attention_mask")
        advance = _advancer(
            lm, embeds, mask, steps, config, weight_rule, _bounds(lm, config.norm),
            process=process, input_ids=input_ids,
        )  # fmt: skip
        stop = _criteria_stopper(config, stopping_criteria, input_ids)
        _, indices, *_, lengths = _loop(advance, embeds, steps, stop)
        new = indices[:, : int(lengths.max()), 0]
        pad = generation_config._pad_token_tensor
        if pad is not None:
            late = torch.arange(new.shape[1], device=new.device) >= lengths[:, None]
            new = new.masked_fill(late, pad)
        ids = torch.cat([input_ids, new], dim=1)
        if generation_config.return_dict_in_generate:
            from transformers.generation import GenerateDecoderOnlyOutput

            return GenerateDecoderOnlyOutput(sequences=ids)
        return ids

    return decode


def prompt_embeds(lm: LM, prompts: str | list) -> tuple[Tensor, Tensor]:
    """Embeddings of prompts (texts or id lists), left-padded: (B,T,D) and mask (B,T)."""
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    rows = []
    for number, prompt in enumerate(prompts, 1):
        ids = lm.tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
        if len(ids) == 0 or prompt == "":
            raise ValueError(f"prompt {number} is empty: give it at least one token")
        ids = torch.as_tensor(ids, dtype=torch.long, device=lm.device)
        rows.append(lm.embed[ids])
    return left_pad(rows)


def left_pad(rows: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Stack (T_i,D) embeddings into (B,T,D), zeros on the left, with the mask (B,T)."""
    if not len(rows):
        raise ValueError("no prompts: expected at least one")
    longest = max(len(row) for row in rows)
    embeds = rows[0].new_zeros(len(rows), longest, rows[0].shape[-1])
    mask = torch.zeros(len(rows), longest, dtype=torch.long, device=embeds.device)
    for b, row in enumerate(rows):
        embeds[b, longest - len(row) :] = row
        mask[b, longest - len(row) :] = 1
    return embeds, mask


@torch.no_grad()
def next_logits(
    lm: LM, inputs_embeds: Tensor | list, attention_mask: Tensor | None = None,
    batch_size: int = 64,
) -> Tensor:  # fmt: skip
    """Logits of the next token after each sequence of embeddings -> (B,V) float32.

    inputs_embeds (B,T,D) with a left-padded mask (B,T), or a list of (T,D).
    """
    if isinstance(inputs_embeds, (list, tuple)):
        inputs_embeds, attention_mask = left_pad(inputs_embeds)
    embeds, mask = _inputs(lm, None, inputs_embeds, attention_mask, 1)
    out = []
    for _, (x, m) in _chunks(lm, embeds, mask, batch_size):
        forward = _Cached(lm.model, x, m, 1)
        out.append(forward(x, 0).float())
    return torch.cat(out)


# The loop


class _Cached:
    """One batch and its growing cache. Call with the new embeddings, get (B,V) logits.

    All positions and masks are made here, before the first step; a step takes slices.
    """

    def __init__(self, model, embeds: Tensor, mask: Tensor | None, steps: int):
        from transformers import DynamicCache

        batch, length = embeds.shape[:2]
        total = length + steps
        self.model, self.length = model, length
        self.cache = DynamicCache(config=model.config)
        self.first = self.later = None  # no padding: the model needs no mask
        self.positions = torch.arange(total, device=embeds.device).expand(batch, -1)
        if mask is not None:
            keys = torch.nn.functional.pad(mask.bool(), (0, steps), value=True)
            self.positions = (keys.long().cumsum(1) - 1).clamp_min(0)
            square = torch.ones(length, length, dtype=torch.bool, device=embeds.device)
            seen = keys[:, None, None, :length] & square.tril()
            # a padding position sees itself: a row with nothing to see would be NaN
            self.first = _as_asked(model, seen | square.tril().triu(), embeds.dtype)
            self.later = _as_asked(model, keys[:, None, None], embeds.dtype)

    def __call__(self, x: Tensor, t: int) -> Tensor:
        end = self.length + t
        start = 0 if t == 0 else end - 1
        mask = self.first if t == 0 else self.later
        return self.model(
            inputs_embeds=x,
            attention_mask=mask if mask is None else mask[..., :end],
            position_ids=self.positions[:, start:end],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]


def _as_asked(model, seen: Tensor, dtype) -> Tensor:
    """A boolean mask as the model's attention takes it: boolean, or added to scores."""
    if model.config._attn_implementation == "sdpa":
        return seen
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)


def _advancer(
    lm, embeds, mask, steps, config, rule, bounds, compile=False, process=None,
    input_ids=None,
):  # fmt: skip
    """A function (x, t) -> weights, next vector, mixed: one step of the loop."""
    forward, embed = _Cached(lm.model, embeds, mask, steps), lm.embed
    ids = input_ids

    def advance(x, t):
        nonlocal ids
        logits = forward(x, t)
        if process is not None:
            logits = process(ids, logits.float())
        weights = weigh(logits, config, rule)
        if process is not None:
            ids = torch.cat([ids, weights.indices[:, :1]], dim=1)
        return weights, *_next_vector(weights, embed, bounds, config)

    return advance


def _next_vector(weights, embed, bounds, config) -> tuple[Tensor, Tensor]:
    """The vector to feed (B,D), and where it is a mixture (B,)."""
    token = torch.nn.functional.embedding(weights.indices[:, 0], embed)
    if config.mode == "discrete":
        return token, torch.zeros_like(weights.entropy, dtype=torch.bool)
    concept = clip_norm(mix(weights.probs, weights.indices, embed), bounds)
    if config.mode == "continuous":
        return concept, torch.ones_like(weights.entropy, dtype=torch.bool)
    unsure = weights.entropy > config.gate_entropy
    return torch.where(unsure[:, None], concept, token), unsure


def _loop(advance, embeds, steps, stop, bar=None, first_row=0):
    """Run `advance` until every row has stopped: probs, indices, ..., lengths (B,)."""
    kept: list[tuple] = []
    x = embeds
    with torch.inference_mode():
        for t in range(steps):
            (probs, indices, entropy), vector, mixed = advance(x, t)
            kept.append((probs, indices, entropy, vector, mixed))
            x = vector[:, None]
            if bar is not None:
                bar.update()
            due = (t + 1) % CHECK_EVERY == 0 and t + 1 < steps
            if due and _look(kept, stop, first_row)[1]:
                break
        lengths, _ = _look(kept, stop, first_row)
    columns = [torch.stack(column, dim=1) for column in zip(*kept)]
    past = torch.arange(len(kept), device=embeds.device) >= lengths[:, None]
    return [
        c.masked_fill(past.view(*past.shape, *[1] * (c.ndim - 2)), 0) for c in columns
    ] + [lengths.clone()]


def _look(kept, stop, first_row):
    """Lengths so far and whether all rows have stopped. The one place that waits."""
    ids = torch.stack([k[1][:, 0] for k in kept], dim=1)
    entropy = torch.stack([k[2] for k in kept], dim=1)
    stopped = stop(ids, entropy)
    ended = stopped.any(1)
    lengths = torch.where(ended, stopped.int().argmax(1) + 1, ids.shape[1])
    counted = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    broken = entropy.isnan() & counted
    if bool(broken.any()):
        row, step = broken.nonzero()[0].tolist()
        raise ValueError(
            f"step {step + 1} of prompt {first_row + row + 1}: logits hold NaN, +inf or "
            "only -inf; check the model's weights, dtype and inputs"
        )
    return lengths, bool(ended.all())


def _stopper(config, eos):
    """(ids (B,T), entropy (B,T)) -> (B,T) where a row may end: EOS, or Cold Stop."""

    def stop(ids, entropy):
        stopped = torch.zeros_like(ids, dtype=torch.bool)
        for end in eos:
            stopped |= ids == end
        if config.stop_entropy is not None and ids.shape[1] >= config.stop_run:
            runs = (entropy < config.stop_entropy).unfold(1, config.stop_run, 1).all(-1)
            stopped[:, config.stop_run - 1 :] |= runs
        return stopped

    return stop


def _criteria_stopper(config, criteria, input_ids):
    """The same for generate()'s stopping criteria, asked about every prefix once."""
    cold, seen = _stopper(config, ()), []

    def stop(ids, entropy):
        for t in range(len(seen), ids.shape[1]):
            seen.append(criteria(torch.cat([input_ids, ids[:, : t + 1]], dim=1), None))
        return cold(ids, entropy) | torch.stack(seen, dim=1)

    return stop


# Inputs


def _inputs(lm, prompts, embeds, mask, steps):
    """Embeddings and mask of whatever was given, checked against the context."""
    if (prompts is None) == (embeds is None):
        raise ValueError("give either prompts or inputs_embeds, not both or neither")
    if prompts is not None:
        embeds, mask = prompt_embeds(lm, prompts)
    width = lm.embed.shape[1]
    if embeds.ndim != 3 or embeds.shape[2] != width or 0 in embeds.shape:
        raise ValueError(
            f"inputs_embeds must be (B,T,{width}) with at least one prompt and position, "
            f"not {tuple(embeds.shape)}"
        )
    embeds = embeds.detach().to(lm.device, lm.dtype)
    if mask is not None:
        if mask.shape != embeds.shape[:2] or not bool(mask[:, -1].all()):
            raise ValueError(
                f"attention_mask must be {tuple(embeds.shape[:2])} and left-padded (its "
                f"last column all 1), not {tuple(mask.shape)}"
            )
        mask = mask.to(lm.device)
    longest = embeds.shape[1] if mask is None else int(mask.sum(1).max())
    if longest + steps - 1 > lm.context:
        raise ValueError(
            f"a prompt of {longest} tokens and {steps} steps do not fit the context of "
            f"{lm.context}: shorten the prompt or take fewer steps"
        )
    return embeds, mask


def _chunks(lm, embeds, mask, batch_size):
    """Batches of at most batch_size rows, without columns that only pad."""
    if not _pads(lm.model):
        batch_size = batch_size if mask is None or bool(mask.all()) else 1
    chunks = []
    for start in range(0, len(embeds), batch_size):
        x = embeds[start : start + batch_size]
        m = None if mask is None else mask[start : start + batch_size]
        if m is not None:
            keep = int(m.sum(1).max())
            x, m = x[:, -keep:], m[:, -keep:]
            m = None if bool(m.all()) else m
        chunks.append((start, (x, m)))
    return chunks


def _pads(model) -> bool:
    """Whether a padded batch is safe: full attention only, in a form we can mask."""
    kinds = getattr(model.config, "layer_types", None) or ["full_attention"]
    return (
        set(kinds) == {"full_attention"}
        and model.config._attn_implementation in ("sdpa", "eager")
        and getattr(model.config, "sliding_window", None) is None
    )


def _bounds(lm, norm):
    key = ("bounds", norm, lm.embed.data_ptr(), lm.embed._version)
    if key not in lm._kept:
        lm._kept[key] = norm_bounds(lm.embed, norm, lm.used)
    return lm._kept[key]


def _pad(column: Tensor, steps: int) -> Tensor:
    """Zeros up to `steps` along dim 1; lengths (B,) pass through."""
    missing = 0 if column.ndim == 1 else steps - column.shape[1]
    if missing == 0:
        return column
    shape = (column.shape[0], missing, *column.shape[2:])
    return torch.cat([column, column.new_zeros(shape)], dim=1)


def _check_steps(name, value):
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")


def _quiet(progress):
    return None if progress is None else not progress
