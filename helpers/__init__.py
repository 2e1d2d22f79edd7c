"""Concept tokens, tested: the library the notebooks call.

Importing this package costs nothing: a name is looked up in its module on first use,
so bad settings are refused before torch is imported.

    from helpers import load, MixtureConfig, mixture_weights, mix
    from helpers import generate_concepts, continue_from, concept_decoding
"""

from importlib import import_module

_HOME = {
    "mixture": ("MixtureConfig", "Weights", "mixture_weights", "mix"),
    "models": ("load", "LM", "chat_prompt"),
    "batching": ("prompt_embeds", "left_pad", "next_logits"),
    "decode": ("ConceptTrace", "generate_concepts", "continue_from"),
    "hf_generate": ("concept_decoding",),
}  # fmt: skip

__all__ = [
    "LM", "ConceptTrace", "MixtureConfig", "Weights", "chat_prompt",
    "concept_decoding", "continue_from",
    "generate_concepts", "left_pad", "load", "mix", "mixture_weights", "next_logits",
    "prompt_embeds",
]  # fmt: skip


def __getattr__(name: str):
    """Import the module that holds `name`, the first time it is asked for."""
    for module, names in _HOME.items():
        if name in names:
            value = getattr(import_module(f"helpers.{module}"), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module 'helpers' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__})
