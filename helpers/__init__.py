"""Concept tokens: mixtures of a model's likeliest next tokens, fed back as its input.

    from helpers import load, MixtureConfig, mixture_weights, mix
    from helpers import generate_concepts, continue_from, concept_decoding

A name's module is imported when the name is first used, so that bad settings are
refused before torch is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .batching import left_pad, next_logits, prompt_embeds
    from .decode import ConceptTrace, continue_from, generate_concepts
    from .hf_generate import concept_decoding
    from .mixture import MixtureConfig, Weights, mix, mixture_weights
    from .models import LM, chat_prompt, load

_MODULES = {
    "mixture": ("MixtureConfig", "Weights", "mixture_weights", "mix"),
    "models": ("load", "LM", "chat_prompt"),
    "batching": ("prompt_embeds", "left_pad", "next_logits"),
    "decode": ("ConceptTrace", "generate_concepts", "continue_from"),
    "hf_generate": ("concept_decoding",),
}

__all__ = [
    "LM", "ConceptTrace", "MixtureConfig", "Weights", "chat_prompt", "concept_decoding",
    "continue_from", "generate_concepts", "left_pad", "load", "mix", "mixture_weights",
    "next_logits", "prompt_embeds",
]  # fmt: skip


def __getattr__(name: str) -> object:
    """Import the module that holds `name`, the first time it is asked for."""
    for module, names in _MODULES.items():
        if name in names:
            value = globals()[name] = getattr(import_module(f"helpers.{module}"), name)
            return value
    raise AttributeError(f"module 'helpers' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
