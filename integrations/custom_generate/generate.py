"""What transformers calls for model.generate(custom_generate=<this repository>).

Beside it lie the modules of concept-tokens' `helpers`, copied there when the folder was
built (python -m integrations.custom_generate).
"""

from .hf_generate import concept_decoding
from .mixture import MixtureConfig, check_choice, sharpened
from .weight_rules import (
    cipher,
    dirichlet,
    gumbel,
    mean_of_draws,
    mixture_of_inputs,
    one_hot,
    sampled,
    soft_grpo,
    soft_thinking,
)

READY = {"sharpened": sharpened, "one_hot": one_hot}
MADE = {"cipher": cipher, "soft_thinking": soft_thinking}
SEEDED = {
    "sampled": sampled,
    "gumbel": gumbel,
    "soft_grpo": soft_grpo,
    "dirichlet": dirichlet,
    "mixture_of_inputs": mixture_of_inputs,
    "mean_of_draws": mean_of_draws,
}


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
    check_choice("rule", rule, [*READY, *MADE, *SEEDED])
    config = MixtureConfig(
        top_k=mixture_top_k,
        temperature=mixture_temperature,
        alpha=alpha,
        norm=norm,
        mode=mode,
    )
    if rule in READY:
        weight_rule = READY[rule]
    else:
        weight_rule = MADE[rule]() if rule in MADE else SEEDED[rule](mixture_seed)
    decode = concept_decoding(config, weight_rule)
    return model.generate(**inputs, custom_generate=decode)
