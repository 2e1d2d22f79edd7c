"""The mixture loop as a decoding method of transformers.

    model.generate(**inputs, custom_generate=concept_decoding(), max_new_tokens=20)

transformers 5 calls the function in place of its own greedy or sampling loop, with the
inputs, logits processors and stopping criteria that it has prepared.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .batching import prepare_inputs, split_batches
from .decode import StopFn, make_step_fn, run_loop, stopping_criterion
from .mixture import MixtureConfig, WeightRule, resolve_config, sharpened
from .models import LM

if TYPE_CHECKING:
    from .step_modes import Feedback, Switch

UNSUPPORTED = (  # settings of generate() that would be ignored
    "do_sample",
    "output_scores",
    "output_logits",
    "output_attentions",
    "output_hidden_states",
    "prompt_lookup_num_tokens",
    "assistant_model",
    "streamer",
)


def concept_decoding(
    config: MixtureConfig | None = None,
    weight_rule: WeightRule = sharpened,
    switch: Switch | None = None,
    feedback: Feedback | None = None,
) -> Callable[..., Any]:
    """Make a function for model.generate(..., custom_generate=concept_decoding()).

    The loop feeds mixtures and returns what generate() returns: prompt ids followed by
    the argmax ids, padded after a row has stopped. Logits processors of the generation
    config (a repetition penalty, say) act before the weights and see the argmax ids.
    Beams, several sequences a prompt, a cache that holds a prefix and what UNSUPPORTED
    names raise ValueError.
    """
    config = resolve_config(config, weight_rule)

    def decode(
        model: Any,
        input_ids: Tensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: Any,
        **inputs: Any,  # by name they would be taken from generate()'s own arguments
    ) -> Any:
        if max(generation_config.num_beams, generation_config.num_return_sequences) > 1:
            raise ValueError("concept_decoding takes one beam, one sequence a prompt")
        # generate() keeps assistants and streamers from a function given to it
        caller = inspect.currentframe().f_back.f_locals  # type: ignore[union-attr]
        for name in UNSUPPORTED:
            if getattr(generation_config, name, None) or caller.get(name) is not None:
                raise ValueError(f"concept_decoding does not support {name}")
        cache = inputs.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            raise ValueError("concept_decoding starts from an empty past_key_values")
        lm, steps = LM(model), stopping_criteria.max_length - input_ids.shape[1]
        embeds, mask = inputs.get("inputs_embeds"), inputs.get("attention_mask")
        if embeds is None:
            embeds = model.get_input_embeddings()(input_ids)
        embeds, mask = prepare_inputs(lm, embeds, mask, steps)
        (_, embeds, mask), *more = split_batches(lm, embeds, mask, len(embeds))
        if more:
            raise ValueError(f"{type(model).__name__} needs prompts of one length")
        settings = steps, config, weight_rule, False, logits_processor, input_ids
        step_fn = make_step_fn(lm, embeds, mask, *settings, switch, feedback)
        cold_stop = stopping_criterion(config, ())
        stop = _stop_by_criteria(cold_stop, stopping_criteria, input_ids)
        _, indices, *_, lengths = run_loop(step_fn, embeds, steps, stop)
        new = indices[:, : int(lengths.max()), 0]
        late = torch.arange(new.shape[1], device=new.device) >= lengths[:, None]
        pad = generation_config._pad_token_tensor
        new = new.masked_fill(late, 0 if pad is None else pad)
        ids = torch.cat([input_ids, new], dim=1)
        if not generation_config.return_dict_in_generate:
            return ids
        from transformers.generation import GenerateDecoderOnlyOutput

        return GenerateDecoderOnlyOutput(sequences=ids)

    return decode


def _stop_by_criteria(cold_stop: StopFn, criteria: Any, input_ids: Tensor) -> StopFn:
    """Add generate()'s stopping criteria, asked about every prefix once."""
    asked: list[Tensor] = []

    def stop(ids: Tensor, entropy: Tensor) -> Tensor:
        for t in range(len(asked), ids.shape[1]):
            prefix = torch.cat([input_ids, ids[:, : t + 1]], dim=1)
            asked.append(criteria(prefix, None))
        return cold_stop(ids, entropy) | torch.stack(asked, dim=1)

    return stop
