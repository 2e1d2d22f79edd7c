"""Tiny models with random weights, of the real classes, built from a configuration.

Their weights are scaled up so that greedy chains wander instead of repeating one token.
"""

import pytest
import torch

from harness.files import ROOT
from helpers import batching
from helpers.models import LM, load

WORDS = [f"w{i}" for i in range(96)]
SPECIAL = ["<pad>", "<s>", "</s>"]  # ids 0, 1, 2; words are 3 to 98, "<unk>" is 99
TINY = ("gpt2", "qwen2", "llama")
MINI = ("mini-gpt2", "mini-qwen2")
STORIES = ROOT.parent / "shared" / "models" / "stories260k"


def tiny_config(family: str, **changes):
    """A configuration of 2 layers, width 32, 100 tokens, 64 positions."""
    import transformers as hf

    ends = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "vocab_size": 100}
    if family == "gpt2":
        shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
        return hf.GPT2Config(**{**ends, **shape, **changes})
    shape = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    classes = {
        "qwen2": hf.Qwen2Config,
        "llama": hf.LlamaConfig,
        "mistral": hf.MistralConfig,
        "gemma3": hf.Gemma3TextConfig,
        "neox": hf.GPTNeoXConfig,
        "opt": hf.OPTConfig,
        "bloom": hf.BloomConfig,
    }
    return classes[family](**{**ends, **shape, **changes})


def tiny_model(family: str, seed: int = 0, **changes):
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family, **changes)).eval()
    for parameter in model.requires_grad_(False).parameters():
        if parameter.ndim > 1:
            parameter.mul_(4)
    return model


class OneToken:
    """A tokenizer of `size` ids whose texts are ids, for planted models."""

    def __init__(self, size: int):
        self.size = size

    def __call__(self, text):
        return {"input_ids": [int(x) for x in text.split()]}

    def __len__(self):
        return self.size


def unchecked(model):
    """Let a planted model pass `check_model`: it reads as no causal model would."""
    batching._CHECKED[model] = True, True
    return model


def tiny_tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *WORDS, "<unk>"]
    raw = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, "<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", eos_token="</s>", bos_token="<s>"
    )


def named(name: str) -> LM:
    """A tiny model by family, or an embedded one by name."""
    if name in MINI:
        if not (ROOT / "models" / name / "SHA256").exists():
            pytest.skip("this mini model has not been trained yet: make models")
        return load(name, device="cpu")
    return LM(tiny_model(name), tiny_tokenizer(), f"tiny-{name}")
