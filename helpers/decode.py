"""The one decoding loop: batched, cached, and the same code on CPU, CUDA and MPS.

    generate_concepts   prompts -> ConceptTrace: each step's weights and mixed vector
    continue_from       embeddings -> new text, greedily
    make_step_fn, run_loop, stopping_criterion   what both are made of; hf_generate too

A step is logits -> weights -> vector -> one forward call on the new position alone.
Nothing in it waits for the device: masks and positions are made once (`CachedForward`),
and where a row stops is computed on the device and read every CHECK_EVERY steps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import embedding
from tqdm import tqdm

from .batching import (
    CachedForward,
    Prompt,
    prepare_inputs,
    prompt_embeds,
    require_lm,
    split_batches,
    supports_left_padding,
)
from .compiled import compile_step
from .mixture import (
    Bounds,
    MixtureConfig,
    WeightRule,
    Weights,
    _mix,
    _mixture_weights,
    apply_norm,
    check_positive_int,
    norm_bounds,
    resolve_config,
    sharpened,
    unfit_weights,
)

if TYPE_CHECKING:
    import pandas as pd

    from .models import LM
    from .step_modes import Feedback, Switch

CHECK_EVERY = 8  # steps between two looks at which rows have stopped

# embeddings (B,T,D) -> probs, indices (B,K), entropy (B,), vector (B,D), mixed (B,)
StepFn: TypeAlias = Callable[[Tensor], Sequence[Tensor]]
# ids (B,T), entropy (B,T) -> (B,T), True where a row may end
StopFn: TypeAlias = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class ConceptTrace:
    """What each step mixed. B prompts, T steps, K kept tokens, D width.

    probs, indices (B,T,K) sorted; entropy (B,T) nats, of the full softmax at
    the config's entropy_temperature; vectors (B,T,D) as fed to the model; mixed (B,T)
    where the mixture, not the top token, was fed; lengths (B,) steps that count:
    entries past a row's length are zero.
    """

    probs: Tensor
    indices: Tensor
    entropy: Tensor
    vectors: Tensor
    mixed: Tensor
    lengths: Tensor
    tokenizer: Any = None

    @property
    def tokens(self) -> list[list[int]]:
        """The argmax chain of each prompt: its top tokens up to its length."""
        ids = self.indices[..., 0].tolist()
        return [row[:n] for row, n in zip(ids, self.lengths.tolist())]

    def to_frame(self, top: int = 5) -> pd.DataFrame:
        """List the `top` tokens of each prompt and step: id, text, weight, entropy."""
        import pandas as pd

        names = ["prompt", "step", "rank", "id", "token", "prob", "entropy"]
        rows = []
        probs, ids = self.probs[..., :top].tolist(), self.indices.tolist()
        for b, nats in enumerate(self.entropy.tolist()):
            for t in range(int(self.lengths[b])):
                for k, (p, i) in enumerate(zip(probs[b][t], ids[b][t]), 1):
                    token = self.tokenizer.decode([i]) if self.tokenizer else str(i)
                    rows.append((b, t + 1, k, i, token, p, nats[t]))
        return pd.DataFrame(rows, columns=names)


def generate_concepts(
    lm: LM,
    prompts: str | Iterable[Prompt] | None = None,
    steps: int = 2,
    config: MixtureConfig | None = None,
    *,
    inputs_embeds: Tensor | Sequence[Tensor] | None = None,
    attention_mask: Tensor | None = None,
    weight_rule: WeightRule = sharpened,
    switch: Switch | None = None,
    feedback: Feedback | None = None,
    stop_at_eos: bool = True,
    compile: bool = False,
    batch_size: int = 64,
    progress: bool | None = None,
) -> ConceptTrace:
    """Run the mixture loop for `steps` steps after each prompt (write-up 3.1).

    prompts: a text, or a list of texts or of token-id lists; or else inputs_embeds
    (B,T,D) with a left-padded attention_mask (B,T), or a list of (T,D). Step t's vector
    is fed back to get step t+1: the first is read off the prompt, the last is not read.
    weight_rule: any rule(logits, config) -> probs, indices (helpers.weight_rules).
    switch, feedback: what carries over between steps (helpers.step_modes).
    stop_at_eos: a row ends with the step whose top token ends a text.
    compile: torch.compile and a static cache: slow first call, then fast; same tokens.
    progress: None shows a bar on a terminal only.
    Raises ValueError before the first step for an empty or too long prompt or bad
    settings, and names the step when logits are NaN, +inf or all -inf.
    """
    config = resolve_config(config, weight_rule)
    check_positive_int("steps", steps)
    if attention_mask is not None and inputs_embeds is None:
        raise ValueError("attention_mask goes with inputs_embeds; prompts make theirs")
    if compile and (getattr(weight_rule, "draws", False) or switch or feedback):
        raise ValueError(
            "compile=True needs a rule that draws nothing, and no switch or feedback"
        )
    require_lm(lm)
    if compile and not supports_left_padding(lm.model):
        raise ValueError("compile=True needs a model with full attention throughout")
    if prompts is not None and inputs_embeds is None:
        inputs_embeds, attention_mask = prompt_embeds(lm, prompts)
    elif prompts is not None or inputs_embeds is None:
        raise ValueError("give either prompts or inputs_embeds, not both or neither")
    embeds, mask = prepare_inputs(lm, inputs_embeds, attention_mask, steps)
    batches = split_batches(lm, embeds, mask, batch_size)
    stop = stopping_criterion(config, lm.eos_ids if stop_at_eos else ())
    hidden = None if progress is None else not progress  # None: hidden off a terminal
    parts = []
    with tqdm(total=len(batches) * steps, disable=hidden, delay=1) as bar:
        for first, x, m in batches:
            settings = steps, config, weight_rule, compile, None, None
            step_fn = make_step_fn(lm, x, m, *settings, switch, feedback)
            parts.append(run_loop(step_fn, x, steps, stop, bar, first))
    columns = [torch.cat(column) for column in zip(*parts)]
    return ConceptTrace(*columns, tokenizer=lm.tokenizer)  # type: ignore[misc]


def continue_from(
    lm: LM,
    inputs_embeds: Tensor | Sequence[Tensor],
    attention_mask: Tensor | None = None,
    max_new_tokens: int = 50,
    *,
    return_ids: bool = False,
    compile: bool = False,
    batch_size: int = 64,
) -> list[Any]:
    """Continue embeddings greedily: the new text only, nothing sliced off -> list[str].

    inputs_embeds: (T,D), (B,T,D) with a left-padded attention_mask (B,T), or a list of
    (T,D) of any lengths. Stops at EOS, skips special tokens. return_ids: the new token
    ids instead, the EOS included -> list[list[int]].
    """
    check_positive_int("max_new_tokens", max_new_tokens)
    require_lm(lm)
    if inputs_embeds is None or (lm.tokenizer is None and not return_ids):
        what = "inputs_embeds" if inputs_embeds is None else "an LM with a tokenizer"
        raise ValueError(f"continue_from needs {what}; return_ids=True gives ids only")
    if isinstance(inputs_embeds, Tensor) and inputs_embeds.ndim == 2:
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
    return list(lm.tokenizer.batch_decode(trace.tokens, skip_special_tokens=True))


def make_step_fn(
    lm: LM,
    embeds: Tensor,
    mask: Tensor | None,
    steps: int,
    config: MixtureConfig,
    rule: WeightRule,
    compile: bool = False,
    logits_processor: Any = None,
    input_ids: Any = None,
    switch: Switch | None = None,
    feedback: Feedback | None = None,
) -> StepFn:
    """Make the function that runs one step; its first call reads the prompt.

    logits_processor: generate()'s, which is given the ids so far, from input_ids on.
    """
    forward = CachedForward(
        lm.model,
        embeds,
        mask,
        steps,
        hidden=feedback is not None,
        share=False if compile else None,
    )
    embed, bounds, ids = lm.embed, _norm_bounds(lm, config.norm), input_ids
    state = None  # the switch's

    def choose(logits: Tensor) -> tuple[Tensor, ...]:
        nonlocal state
        weights = _mixture_weights(logits, config, rule)
        if switch:
            weights, state = switch(weights, state)
        vector, mixed = _next_vector(weights, embed, bounds, config)
        if switch:
            mixed = mixed & (weights.probs[:, 0] < 1)
        if feedback and forward.hidden is not None:
            vector = feedback(vector, forward.hidden)
        return *weights, vector, mixed

    def step(x: Tensor) -> Sequence[Tensor]:
        nonlocal ids
        logits = forward(x)
        if not logits_processor:
            return choose(logits)
        outputs = choose(logits_processor(ids, logits.float()))
        ids = torch.cat([ids, outputs[1][:, :1]], dim=1)
        return outputs

    compiled: StepFn | None = None

    def compiled_step(x: Tensor) -> Sequence[Tensor]:
        nonlocal compiled
        if compiled is not None:
            return compiled(x)
        outputs = step(x)  # the prompt
        tables = [table.data_ptr() for table in (embed, *(bounds or ()))]
        key, total = (config, rule, *tables), embeds.shape[1] + steps
        compiled = compile_step(lm, forward, mask, total, key, choose)
        return outputs

    return compiled_step if compile and steps > 1 else step


def _next_vector(
    weights: Weights, embed: Tensor, bounds: Bounds, config: MixtureConfig
) -> tuple[Tensor, Tensor]:
    """Choose the vector to feed (B,D), and tell where it is a mixture (B,)."""
    unsure = weights.entropy > config.gate_entropy
    if config.mode != "continuous":
        token = embedding(weights.indices[:, 0], embed)
        if config.mode == "discrete":
            return token, torch.zeros_like(unsure)
    mixture = weights.probs, weights.indices
    concept = apply_norm(_mix(*mixture, embed), *mixture, bounds, config.norm)
    if config.mode == "continuous":
        return concept, torch.ones_like(unsure)
    return torch.where(unsure[:, None], concept, token), unsure


def run_loop(
    step_fn: StepFn,
    embeds: Tensor,
    steps: int,
    stop: StopFn,
    bar: Any = None,
    first_row: int = 0,
) -> list[Tensor]:
    """Run steps until all rows have stopped -> its outputs (B,steps,...), lengths (B,).

    Entries past a row's length are zero. first_row: how errors number the rows.
    """
    outputs: list[Sequence[Tensor]] = []
    x = embeds
    with torch.inference_mode():
        for t in range(1, steps + 1):
            outputs.append(step_fn(x))
            x = outputs[-1][3][:, None]
            if bar is not None:
                bar.update()
            if t == 1 or t % CHECK_EVERY == 0 or t == steps:
                lengths, all_stopped = _stopped_lengths(outputs, stop, first_row)
                if all_stopped:
                    break
    zeros = [torch.zeros_like(part) for part in outputs[-1]]
    outputs += [zeros] * (steps - len(outputs))
    past = torch.arange(steps, device=embeds.device) >= lengths[:, None]
    columns = [torch.stack(column, dim=1) for column in zip(*outputs)]
    shaped = [past.view(past.shape + (1,) * (c.ndim - 2)) for c in columns]
    return [*(c.masked_fill(p, 0) for c, p in zip(columns, shaped)), lengths]


def _stopped_lengths(
    outputs: Sequence[Sequence[Tensor]], stop: StopFn, first_row: int
) -> tuple[Tensor, bool]:
    """Find the lengths so far and whether all rows have stopped.

    The one place that waits for the device. Raises ValueError for NaN, or weights that
    are none, in a row that has not stopped.
    """
    ids = torch.stack([step[1][:, 0] for step in outputs], dim=1)
    entropy = torch.stack([step[2] for step in outputs], dim=1)
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
    new = zip(*outputs[-CHECK_EVERY:])  # those before were looked at
    probs, indices, _, vectors, _ = (torch.stack(column, dim=1) for column in new)
    unfit = unfit_weights(probs, indices) | ~vectors.isfinite().all(-1)
    for row, step in (unfit & counts[:, -unfit.shape[1] :]).nonzero().tolist():
        step += len(outputs) - unfit.shape[1]
        raise ValueError(
            f"step {step + 1} of prompt {first_row + row + 1}: the weight rule gives "
            "no weights >= 0 that sum to 1, or the vector they mix is not finite"
        )
    return lengths, bool(ended.all())


def stopping_criterion(config: MixtureConfig, eos_ids: Iterable[int]) -> StopFn:
    """Make the test of where a row may end: at an EOS, or by Cold Stop."""

    def stop(ids: Tensor, entropy: Tensor) -> Tensor:
        stopped = torch.zeros_like(ids, dtype=torch.bool)
        for eos in eos_ids:
            stopped |= ids == eos
        run = config.stop_run
        if config.stop_entropy is not None and ids.shape[1] >= run:
            cold = entropy < config.stop_entropy
            stopped[:, run - 1 :] |= cold.unfold(1, run, 1).all(-1)
        return stopped

    return stop


def _norm_bounds(lm: LM, norm: str) -> Bounds:
    """Compute norm bounds of lm.embed, again only when its values have changed."""
    return lm.remember(("bounds", norm), lambda: norm_bounds(lm.embed, norm, lm.used))
