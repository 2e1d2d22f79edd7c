"""Try every causal language model class of the installed transformers with the loop.

    python -m versions.architectures                 # all, a few minutes
    python -m versions.architectures gpt2 llama      # these, and print their rows

Each class is built from a small configuration with random weights: no download. Every
model is tried in a process of its own, so that one that crashes or hangs loses only its
own row.

Columns of figures/architectures.csv, one row a class:
  model_type, class  as transformers names them
  result             passes | refused (in one line, before work) | fails | not tried
  reason             why it is not "passes", or how rows of unequal length are read
"passes" means, after a few random prompts:
  inputs untouched   the caller's embeddings are what they were
  ids = embeddings   the same logits, bit for bit, from ids and from their embeddings
  cached = recomputed, batch = alone   helpers.batching.check_model, and whole chains
  one-hot = greedy   generate_concepts with one token's whole weight writes what
                     model.generate writes greedily
"""

import argparse
import csv
import multiprocessing
import os
import resource
import sys
import warnings
from collections import Counter
from pathlib import Path

CSV = Path(__file__).resolve().parent.parent / "figures" / "architectures.csv"
COLUMNS = ("model_type", "class", "result", "reason")
SECONDS = 120  # of processor time for one class; more only where it waits for ever
MOST_WEIGHTS = 30_000_000  # of a small configuration that did not turn out small
# What configurations call their sizes. A name that one does not have is left out.
NAMES = {
    32: "hidden_size n_embd d_model dim embedding_size word_embed_proj_dim "
    "attention_hidden_size moe_intermediate_size shared_expert_intermediate_size",
    64: "intermediate_size ffn_dim decoder_ffn_dim n_inner d_ff dff "
    "max_position_embeddings n_positions max_seq_len n_ctx",
    16: "q_lora_rank kv_lora_rank",
    8: "head_dim qk_nope_head_dim qk_rope_head_dim v_head_dim sliding_window "
    "rotary_dim",
    4: "num_attention_heads n_head n_heads num_heads decoder_attention_heads "
    "num_experts num_local_experts n_routed_experts moe_num_experts state_size "
    "mamba_d_state",
    2: "num_hidden_layers n_layer n_layers num_layers decoder_layers "
    "num_key_value_heads num_kv_heads n_groups num_experts_per_tok moe_topk moe_k "
    "expand eos_token_id",
    1: "n_group topk_group first_k_dense_replace bos_token_id decoder_start_token_id",
    0: "pad_token_id",
    100: "vocab_size",
}
SIZES = {name: size for size, names in NAMES.items() for name in names.split()}

# What some need besides: sizes that depend on one another.
PER_LAYER = {"vocab_size_per_layer_input": 100, "hidden_size_per_layer_input": 8}
PER_LAYER |= {"num_kv_shared_layers": 0, "num_hidden_layers": 2}
EXTRA = {
    "bamba": {"mamba_n_heads": 8, "attn_layer_indices": [1]},
    "gemma3n_text": PER_LAYER
    | {"layer_types": ["full_attention"] * 2, "laurel_rank": 4, "altup_num_inputs": 2}
    | {"activation_sparsity_pattern": [0.0, 0.0]},
    "gemma4_text": PER_LAYER
    | {"layer_types": ["sliding_attention", "full_attention"], "global_head_dim": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 8},
    "granitemoehybrid": {"mamba_n_heads": 8},
}


def causal_classes() -> dict[str, str]:
    """List transformers' causal language models: model type -> class."""
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as names,
    )

    return {kind: str(name) for kind, name in sorted(names.items())}


def small_config(kind: str):
    """Make a configuration of two layers and width 32, by the names that it has."""
    from transformers import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[kind]
    known = {*config_class().to_dict(), *config_class.attribute_map}
    given = {name: size for name, size in SIZES.items() if name in known}
    if "kv_lora_rank" in known:  # latent attention: as many keys as queries
        given["num_key_value_heads"] = given["num_attention_heads"]
    if "layer_types" in known:  # room for one layer of each type
        given["num_hidden_layers"] = 4
    return config_class(**given | EXTRA.get(kind, {}))


def random_model(kind: str):
    """Build the class of a small configuration, with weights that tell tokens apart."""
    import torch
    from transformers import AutoModelForCausalLM

    config = small_config(kind)
    with torch.device("meta"):
        meta = AutoModelForCausalLM.from_config(config)
    count = sum(parameter.numel() for parameter in meta.parameters())
    if count > MOST_WEIGHTS:
        raise ValueError(f"{count} weights in its smallest configuration here")
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.requires_grad_(False).parameters():
        if parameter.ndim == 2:
            parameter.mul_(4)
    return model


def try_class(kind: str) -> tuple[str, str]:
    """Build a class and try it with the loop -> result, reason."""
    try:
        model = random_model(kind)
    except Exception as error:
        return "not tried", f"no small configuration: {first_line(error)}"
    return try_model(model)


def try_model(model) -> tuple[str, str]:
    """Run the checks that the module's text lists on a model -> result, reason."""
    import torch
    from transformers import GenerationConfig

    from helpers import MixtureConfig, generate_concepts
    from helpers.batching import check_model, supports_left_padding
    from helpers.models import LM, check_embeddings

    model.generation_config = GenerationConfig()  # its own may force or forbid tokens
    try:
        lm = LM(model)
        check_model(model)
        check_embeddings(lm)
    except ValueError as error:
        return "refused", first_line(error)
    prompts = [[5, 9, 13, 4, 7, 21, 30], [3, 4, 6], [8, 17, 11, 40, 41]]
    prompts = [[i % lm.embed.shape[0] for i in row] for row in prompts]
    greedy = {"do_sample": False, "num_beams": 1, "max_new_tokens": 8}
    how = {"config": MixtureConfig(top_k=1, norm="none"), "stop_at_eos": False}
    together = generate_concepts(lm, prompts, 8, **how).tokens
    for row, tokens in zip(prompts, together):
        ids = torch.tensor([row])
        given = lm.embed[ids[0]][None]
        kept = given.clone()
        from_vectors = model(inputs_embeds=given).logits
        if not torch.equal(given, kept):
            return "fails", "the model changes its input in place"
        if not torch.equal(model(input_ids=ids).logits, from_vectors):
            return "fails", "ids and their embeddings give other logits"
        if generate_concepts(lm, [row], 8, **how).tokens[0] != tokens:
            return "fails", "a row in a batch and alone differ"
        written = model.generate(ids, **greedy)[0, len(row) :].tolist()
        if written != tokens:
            return "fails", "one-hot vectors and greedy generate differ"
    return "passes", "" if supports_left_padding(model) else "unequal rows one by one"


def first_line(error: Exception) -> str:
    """Shorten an error to the first line of its text."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    said = lines[-1] if "validat" in lines[0] else lines[0]  # what was not valid
    return " ".join(said.split())[:160]


def _child(kind: str, pipe) -> None:
    """Try one class in a forked process; what it prints is thrown away."""
    import torch

    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    try:
        pipe.send(try_class(kind))
    except Exception as error:
        pipe.send(("fails", first_line(error)))


def try_apart(kind: str) -> tuple[str, str]:
    """Try a class in a process of its own -> result, reason."""
    context = multiprocessing.get_context("fork")  # transformers is loaded already
    mine, its = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(kind, its))
    child.start()
    its.close()
    try:
        return mine.recv() if mine.poll(10 * SECONDS) else ("fails", "it never ended")
    except EOFError:
        child.join()
        return "fails", f"its process ended with {child.exitcode}"
    finally:
        child.kill()
        child.join()


def table(kinds: list[str]) -> list[dict[str, str]]:
    """Try classes, one line each to the terminal -> rows of the csv."""
    import torch  # noqa: F401  what the forked processes share
    import transformers.models.auto.modeling_auto  # noqa: F401

    from helpers import generate_concepts  # noqa: F401

    classes, rows = causal_classes(), []
    for kind in kinds:
        values = (kind, classes[kind], *try_apart(kind))
        rows.append(dict(zip(COLUMNS, values)))
        print(" | ".join(values), flush=True)
    return rows


def main(argv: list[str] | None = None) -> int:
    """Write the table of all classes, or print the rows asked for."""
    asked = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    asked.add_argument("model_type", nargs="*", help="all where none is given")
    kinds = asked.parse_args(argv).model_type
    warnings.filterwarnings("ignore")
    if unknown := [kind for kind in kinds if kind not in causal_classes()]:
        print(f"error: no causal model type: {', '.join(unknown)}", file=sys.stderr)
        return 2
    rows = table(kinds or [*causal_classes()])
    if not kinds:
        text = [COLUMNS, *([row[name] for name in COLUMNS] for row in rows)]
        aside = CSV.with_suffix(".new")
        with aside.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(text)
        aside.replace(CSV)
    print(dict(Counter(row["result"] for row in rows)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
