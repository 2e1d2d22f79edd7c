"""The one decoding loop: batched, cached, and the same code on CPU, CUDA and MPS.

    generate_concepts   prompts -> ConceptTrace: each step's weights and mixed vector
    continue_from       embeddings -> new text, greedily
    stepper, loop, stopper   what both are made of, and the plug-in too (`plugin`)

A step is logits -> weights -> vector -> one forward call on the new position alone.
Nothing in it waits for the device: masks and positions are made once (`forward`), and
where a row stops is worked out on the device and looked at every CHECK_EVERY steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from tqdm import tqdm

from .batching import (
    CachedForward,
    prepare_inputs,
    prompt_embeds,
    require_lm,
    split_batches,
    supports_left_padding,
)
from .compiled import compile_step
from .mixture import (
    MixtureConfig,
    WeightRule,
    _mix,
    _mixture_weights,
    check_positive_int,
    clip_norm,
    norm_bounds,
    resolve_config,
    sharpened,
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
        """Tidy rows, one a prompt, step and rank: token, weight, entropy."""
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
    inputs_embeds: Tensor | list | None = None,
    attention_mask: Tensor | None = None,
    weight_rule: WeightRule = sharpened,
    stop_at_eos: bool = True,
    compile: bool = False,
    batch_size: int = 64,
    progress: bool | None = None,
) -> ConceptTrace:
    """Run the mixture loop for `steps` steps after each prompt (write-up 3.1).

    prompts: a text, or a list of texts or of token-id lists; or else inputs_embeds
    (B,T,D) with a left-padded attention_mask (B,T), or a list of (T,D). Step t's vector
    is fed back to get step t+1: the first is read off the prompt, the last is not read.
    weight_rule: any rule(logits, config) -> probs, indices (helpers.rules).
    stop_at_eos: a row ends with the step whose top token ends a text.
    compile: torch.compile and a static cache: slow first call, then fast; same tokens.
    progress: None shows a bar on a terminal only.
    Raises ValueError before the first step for an empty or too long prompt or bad
    settings, and names the step when logits are NaN, +inf or all -inf.
    """
    config = resolve_config(config, weight_rule)
    check_positive_int("steps", steps)
    if (prompts is None) == (inputs_embeds is None):
        raise ValueError("give either prompts or inputs_embeds, not both or neither")
    if attention_mask is not None and inputs_embeds is None:
        raise ValueError("attention_mask goes with inputs_embeds; prompts make theirs")
    if compile and getattr(weight_rule, "draws", False):
        raise ValueError("compile=True needs a weight rule that draws nothing")
    if compile and not supports_left_padding(require_lm(lm).model):
        raise ValueError("compile=True needs a model with full attention throughout")
    if prompts is not None:
        inputs_embeds, attention_mask = prompt_embeds(lm, prompts)
    embeds, mask = prepare_inputs(lm, inputs_embeds, attention_mask, steps)
    cut = split_batches(lm, embeds, mask, batch_size)
    stop = stopping_criterion(config, lm.eos_ids if stop_at_eos else ())
    quiet = None if progress is None else not progress  # None: silent off a terminal
    parts = []
    with tqdm(total=len(cut) * steps, disable=quiet, delay=1) as bar:
        for first, x, m in cut:
            advance = make_step_fn(
                lm, x, m, steps, config, weight_rule, compile=compile
            )
            parts.append(run_loop(advance, x, steps, stop, bar, first))
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

    inputs_embeds: (T,D), (B,T,D) with a left-padded attention_mask (B,T), or a list of
    (T,D) of any lengths. Stops at EOS, skips special tokens. return_ids: the new token
    ids instead, the EOS included -> list[list[int]].
    """
    check_positive_int("max_new_tokens", max_new_tokens)
    if inputs_embeds is None or (require_lm(lm).tokenizer is None and not return_ids):
        what = "inputs_embeds" if inputs_embeds is None else "an LM with a tokenizer"
        raise ValueError(f"continue_from needs {what}; return_ids=True gives ids only")
    if isinstance(inputs_embeds, torch.Tensor) and inputs_embeds.ndim == 2:
        inputs_embeds = inputs_embeds[None]
    trace = generate_concepts(
        lm,
        steps=max_new_tokens,
        config=MixtureConfig(top_k=1, mode="discrete", norm="none"),
        inputs_embeds=inputs_embeds,
        attention_mask=attention_mask,
        compile=compile,
        batch_size=batch_size,
    )
    if return_ids:
        return trace.tokens
    return lm.tokenizer.batch_decode(trace.tokens, skip_special_tokens=True)


def make_step_fn(
    lm, embeds, mask, steps, config, rule, process=None, input_ids=None, compile=False
):
    """One step: a function (x) -> probs, indices, entropy, vector (B,D), mixed (B,).

    The first call reads the prompt. process: generate()'s logits processors, which want
    the ids so far.
    """
    forward, embed = CachedForward(lm.model, embeds, mask, steps), lm.embed
    bounds, ids = _bounds(lm, config.norm), input_ids

    def finish(logits):
        weights = _mixture_weights(logits, config, rule)
        return *weights, *_next_vector(weights, embed, bounds, config)

    def advance(x):
        nonlocal ids
        logits = forward(x)
        if process:
            logits = process(ids, logits.float())
        outputs = finish(logits)
        if process:
            ids = torch.cat([ids, outputs[1][:, :1]], dim=1)
        return outputs

    if not compile or steps == 1:
        return advance
    fast = None

    def advance_compiled(x):
        nonlocal fast
        if fast is not None:
            return fast(x)
        outputs = advance(x)
        total = embeds.shape[1] + steps
        key = (config, rule, *(x.data_ptr() for x in (embed, *(bounds or ()))))
        fast = compile_step(lm, forward, mask, total, key, finish)
        return outputs

    return advance_compiled


def _next_vector(weights, embed, bounds, config) -> tuple[Tensor, Tensor]:
    """The vector to feed (B,D), and where it is a mixture (B,)."""
    unsure = weights.entropy > config.gate_entropy
    if config.mode != "continuous":
        token = torch.nn.functional.embedding(weights.indices[:, 0], embed)
        if config.mode == "discrete":
            return token, torch.zeros_like(unsure)
    concept = clip_norm(_mix(weights.probs, weights.indices, embed), bounds)
    if config.mode == "continuous":
        return concept, torch.ones_like(unsure)
    return torch.where(unsure[:, None], concept, token), unsure


def run_loop(advance, embeds, steps, stop, bar=None, first_row=0) -> list[Tensor]:
    """Run `advance` until all rows stop: its outputs (B,T,...), lengths (B,)."""
    kept, x = [], embeds
    with torch.inference_mode():
        for t in range(1, steps + 1):
            outputs = advance(x)
            kept.append(outputs)
            x = outputs[3][:, None]
            if bar is not None:
                bar.update()
            if t % CHECK_EVERY == 0 and t < steps and _look(kept, stop, first_row)[1]:
                break
        lengths, _ = _look(kept, stop, first_row)
    columns = [torch.stack(column, dim=1) for column in zip(*kept)]
    past = torch.arange(len(kept), device=embeds.device) >= lengths[:, None]
    shaped = [past.view(past.shape + (1,) * (c.ndim - 2)) for c in columns]
    columns = [c.masked_fill(p, 0) for c, p in zip(columns, shaped)]
    return [*columns, lengths.clone()]


def _look(kept, stop, first_row) -> tuple[Tensor, bool]:
    """Lengths so far and whether all rows have stopped: the one place that waits."""
    ids = torch.stack([outputs[1][:, 0] for outputs in kept], dim=1)
    entropy = torch.stack([outputs[2] for outputs in kept], dim=1)
    stopped = stop(ids, entropy)
    ended = stopped.any(1)
    lengths = torch.where(ended, stopped.int().argmax(1) + 1, ids.shape[1])
    counts = torch.arange(ids.shape[1], device=ids.device) < lengths[:, None]
    broken = (entropy.isnan() & counts).nonzero().tolist()
    if broken:
        row, step = broken[0]
        raise ValueError(
            f"step {step + 1} of prompt {first_row + row + 1}: logits hold NaN, +inf "
            "or only -inf; check the model's weights, dtype and inputs"
        )
    return lengths, bool(ended.all())


def stopping_criterion(config, eos):
    """ids (B,T), entropy (B,T) -> (B,T), True where a row may end: EOS or Cold Stop."""

    def stop(ids, entropy):
        stopped = torch.zeros_like(ids, dtype=torch.bool)
        for end in eos:
            stopped |= ids == end
        run = config.stop_run
        if config.stop_entropy is not None and ids.shape[1] >= run:
            low = entropy < config.stop_entropy
            stopped[:, run - 1 :] |= low.unfold(1, run, 1).all(-1)
        return stopped

    return stop


def _bounds(lm, norm):
    """Norm bounds of lm.embed, worked out again only when its values have changed."""
    key = ("bounds", norm, lm.embed.data_ptr(), lm.embed._version)
    if key not in lm._kept:
        lm._kept[key] = norm_bounds(lm.embed, norm, lm.used)
    return lm._kept[key]


def _pad(column: Tensor, steps: int) -> Tensor:
    """Zeros up to `steps` along dim 1; lengths (B,) pass through."""
    if column.ndim == 1 or column.shape[1] == steps:
        return column
    shape = (column.shape[0], steps - column.shape[1], *column.shape[2:])
    return torch.cat([column, column.new_zeros(shape)], dim=1)
