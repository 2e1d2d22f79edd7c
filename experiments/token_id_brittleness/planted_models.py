"""Models with a known answer, for checks that must be able to say yes and no.

random_model   tiny, random weights. GPT-2, Qwen2 and Llama see embeddings only; so
               do Gemma 1 to 3, which scale them inside the embedding module;
               Gemma 3n looks up a further vector by id in every layer
looks_at_ids   a wrapper with a second, mechanical track: one id moves a logit
"""

from __future__ import annotations

import torch
from torch import nn

from helpers.models import LM

VOCAB = 97
COMMON = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2}
SIZES = COMMON | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2}
SIZES |= {"max_position_embeddings": 64}
GEMMA = {"layer_types": ["full_attention"] * 2, "head_dim": 8, "laurel_rank": 4}
GEMMA |= {"hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": VOCAB}
GEMMA |= {"num_kv_shared_layers": 0, "altup_num_inputs": 2}
GEMMA |= {"activation_sparsity_pattern": [0.0, 0.0]}
CONFIGS = {  # architecture -> its sizes, by the names of its configuration
    "gpt2": COMMON | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "qwen2": SIZES | {"tie_word_embeddings": True},
    "llama": SIZES | {"tie_word_embeddings": False},
    "gemma": SIZES | {"head_dim": 8},
    "gemma2": SIZES | {"head_dim": 8},
    "gemma3": SIZES | {"head_dim": 8},
    "gemma3n": SIZES | GEMMA,
}


def random_model(architecture: str, seed: int = 0) -> LM:
    """Build a two-layer model of one of CONFIGS, without a tokenizer.

    Weights are larger than usual, so that different tokens give different logits.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if architecture not in CONFIGS:
        raise ValueError(f"architecture {architecture!r}: expected one of {[*CONFIGS]}")
    kind = {"gemma3": "gemma3_text", "gemma3n": "gemma3n_text"}.get(architecture)
    config = AutoConfig.for_model(kind or architecture, **CONFIGS[architecture])
    model = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return LM(model.eval().requires_grad_(False), name=f"random {architecture}")


def looks_at_ids(lm: LM, trigger: int, by: float = 1e-4) -> LM:
    """Wrap a model so that the id `trigger` in a prompt moves one of its last logits.

    The second track that Table 4.3 was taken to show, built on purpose: `by` logits.
    """
    return LM(_LooksAtIds(lm.model, trigger, by), lm.tokenizer, f"{lm.name}, planted")


class _LooksAtIds(nn.Module):
    def __init__(self, model: nn.Module, trigger: int, by: float):
        super().__init__()
        self.model, self.trigger, self.by = model, trigger, by
        self.config, self.generation_config = model.config, model.generation_config
        self.get_input_embeddings = model.get_input_embeddings
        self.get_output_embeddings = model.get_output_embeddings

    def forward(self, input_ids=None, **inputs):
        out = self.model(input_ids=input_ids, **inputs)
        if input_ids is not None:
            seen = (input_ids == self.trigger).any(1)
            out.logits[seen, -1, 2] += self.by
        return out
