"""The mixture loop as a decoding method of transformers: concept_decoding.

    model.generate(**inputs, custom_generate=concept_decoding(), max_new_tokens=20)

transformers 5 calls the function in place of its own greedy or sampling loop, with the
inputs, logits processors and stopping criteria that it has prepared.
"""

from __future__ import annotations

import torch

from .batching import prepare_inputs, split_batches
from .decode import make_step_fn, run_loop, stopping_criterion
from .mixture import MixtureConfig, WeightRule, resolve_config, sharpened
from .models import LM


def concept_decoding(
    config: MixtureConfig | None = None, weight_rule: WeightRule = sharpened
):
    """The loop as a plug-in: model.generate(..., custom_generate=concept_decoding()).

    generate() prepares inputs, processors and stopping criteria; the loop feeds
    mixtures and returns what generate() returns: prompt ids followed by the argmax ids,
    padded after a row has stopped. Logits processors of the generation config (a
    repetition penalty, say) act before the weights and see the argmax ids. Beams,
    several sequences a prompt and a cache that holds a prefix raise ValueError.
    """
    config = resolve_config(config, weight_rule)

    def decode(
        model, input_ids, logits_processor, stopping_criteria, generation_config,
        **given,
    ):  # fmt: skip
        if max(generation_config.num_beams, generation_config.num_return_sequences) > 1:
            raise ValueError("concept_decoding takes one beam, one sequence a prompt")
        cache = given.get("past_key_values")
        if cache is not None and cache.get_seq_length() > 0:
            raise ValueError("concept_decoding starts from an empty past_key_values")
        lm, embeds = LM(model), given.get("inputs_embeds")
        if embeds is None:
            embeds = model.get_input_embeddings()(input_ids)
        steps = stopping_criteria.max_length - input_ids.shape[1]
        embeds, mask = prepare_inputs(lm, embeds, given.get("attention_mask"), steps)
        (_, embeds, mask), *more = split_batches(lm, embeds, mask, len(embeds))
        if more:
            raise ValueError(f"{type(model).__name__} needs prompts of one length")
        advance = make_step_fn(
            lm, embeds, mask, steps, config, weight_rule, logits_processor, input_ids
        )
        stop = _criteria_stopper(config, stopping_criteria, input_ids)
        _, indices, *_, lengths = run_loop(advance, embeds, steps, stop)
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


def _criteria_stopper(config, criteria, input_ids):
    """The same for generate()'s stopping criteria, asked about every prefix once."""
    cold, seen = stopping_criterion(config, ()), []

    def stop(ids, entropy):
        for t in range(len(seen), ids.shape[1]):
            seen.append(criteria(torch.cat([input_ids, ids[:, : t + 1]], dim=1), None))
        return cold(ids, entropy) | torch.stack(seen, dim=1)

    return stop
