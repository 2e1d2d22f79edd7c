"""What transformers calls for model.generate(custom_generate=<this repository>).

Beside it lie the modules of concept-tokens' `helpers`, copied there when the folder was
built (python -m integrations.custom_generate).
"""

from .hf_generate import concept_decoding
from .mixture import MixtureConfig
from .weight_rules import named_rule


def generate(
    model,
    rule="sharpened",
    mode="continuous",
    mixture_top_k=50,
    mixture_temperature=0.8,
    alpha=1.5,
    norm="all",
    mixture_seed=0,
    **inputs,
):
    """Feed mixtures of token embeddings; return what model.generate() returns.

    The settings are those of README.md; inputs: everything else that generate() takes.
    """
    config = MixtureConfig(
        top_k=mixture_top_k,
        temperature=mixture_temperature,
        alpha=alpha,
        norm=norm,
        mode=mode,
    )
    decode = concept_decoding(config, named_rule(rule, mixture_seed))
    return model.generate(**inputs, custom_generate=decode)
