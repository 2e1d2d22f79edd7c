"""Architectures of other kinds: as each is alone and recomputed, or refused in a line.

What the loop would do wrong without a word is found by `batching.check_model`, on a
few tokens, before the first step.
"""

import pytest
import torch

from experiments.token_id_brittleness.id_equivalence import (
    check_id_embedding_equivalence,
)
from experiments.token_id_brittleness.planted_models import random_model
from helpers import MixtureConfig, chat_prompt, generate_concepts, load, mix
from helpers.batching import check_model, supports_left_padding
from helpers.decode import _norm_bounds
from helpers.models import LM, check_embeddings
from tests.tiny import tiny_model, tiny_tokenizer

GREEDY = MixtureConfig(top_k=1, norm="none")
COMMON = {"vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4}
SIZES |= {"intermediate_size": 64, "max_position_embeddings": 64}
PER_LAYER = {"layer_types": ["sliding_attention", "full_attention"] * 2}
PER_LAYER |= {"vocab_size_per_layer_input": 100, "hidden_size_per_layer_input": 8}
PER_LAYER |= {"num_kv_shared_layers": 0, "head_dim": 8, "global_head_dim": 8}
LONG = {"rope_type": "longrope", "factor": 2.0, "rope_theta": 1e4}
LONG |= {"short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
LONG |= {"original_max_position_embeddings": 16}


def build(kind: str, **changes):
    """A model with random weights, scaled up so that its tokens differ."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **COMMON | changes)
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.requires_grad_(False).parameters():
        if parameter.ndim == 2:
            parameter.mul_(4)
    return model


# fmt: off
REFUSED = {
    "bert": (SIZES, "differ from those of a full recompute|no key-value cache"),
    "roformer": (SIZES | {"embedding_size": 32}, "no key-value cache"),
    "roberta": (SIZES | {"is_decoder": True, "pad_token_id": 1}, "full recompute"),
    "ctrl": ({"n_embd": 32, "n_layer": 2, "n_head": 4, "dff": 64, "n_positions": 64},
             "changes its input in place"),
    "openai-gpt": ({"n_embd": 32, "n_layer": 1, "n_head": 2}, "no key-value cache"),
    "mamba": ({"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
              "no key-value cache"),
    "rwkv": ({"hidden_size": 32, "num_hidden_layers": 2, "attention_hidden_size": 32},
             "no key-value cache"),
    "gemma4_text": (SIZES | PER_LAYER | {"num_key_value_heads": 2, "sliding_window": 8},
                    "without providing `input_ids"),
}
# fmt: on


@pytest.mark.parametrize("kind", REFUSED)
def test_what_the_loop_would_do_wrong_is_refused_before_a_step(kind):
    changes, says = REFUSED[kind]
    lm = LM(build(kind, **changes))
    if kind == "gemma4_text":  # equal for exact rows: that would say nothing
        with pytest.raises(ValueError, match=says):
            check_id_embedding_equivalence(lm, [[5, 6, 7]])
    with pytest.raises(ValueError, match=f"cannot run the loop: [^\n]*({says})[^\n]*$"):
        generate_concepts(lm, [[5, 6, 7]], steps=1)


def test_a_refused_architecture_is_refused_at_load(tmp_path):
    build("bert", **SIZES).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="BertLMHeadModel cannot run the loop"):
        load(str(tmp_path), device="cpu")


def test_a_model_that_reads_more_than_its_rows_is_refused_at_load():
    check_embeddings(random_model("gemma3"))
    with pytest.raises(ValueError, match="reads more from token ids"):
        check_embeddings(random_model("gemma3n"))


IDS = [[5, 9, 13, 4, 7, 21, 30, 8, 11], [3, 4, 6], [8, 8, 17, 11, 40, 41]]
# fmt: off
ALONE = {
    "falcon": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
               "alibi": True, "new_decoder_architecture": False},
    "gpt_neo": {"hidden_size": 32, "num_layers": 4, "num_heads": 4, "window_size": 4,
                "intermediate_size": 64, "max_position_embeddings": 64,
                "attention_types": [[["global", "local"], 2]]},
    "mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64},
    "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "llama": SIZES | {"num_key_value_heads": 2, "rope_parameters": LONG},
}
# fmt: on


@pytest.mark.parametrize("kind", ALONE)
def test_rows_that_cannot_be_padded_together_are_read_one_at_a_time(kind):
    lm = LM(build(kind, **ALONE[kind]))
    together = generate_concepts(lm, IDS, 12, GREEDY, stop_at_eos=False).tokens
    for ids, tokens in zip(IDS, together):
        alone = generate_concepts(lm, [ids], 12, GREEDY, stop_at_eos=False)
        assert tokens == alone.tokens[0]
    assert not supports_left_padding(lm.model)
    with pytest.raises(ValueError, match="compile=True needs a model with full"):
        generate_concepts(lm, IDS[:1], 4, compile=True)


def test_a_context_is_the_configuration_s_whatever_it_calls_it():
    assert LM(build("mpt", **ALONE["mpt"])).context == 64
    model = tiny_model("gpt2")
    model.config.max_position_embeddings = -1  # XLNet's: none
    assert LM(model).context > 2**40


def test_a_check_costs_a_few_tokens_once(monkeypatch):
    model, read = tiny_model("llama"), []
    model.register_forward_hook(
        lambda _, __, given, out: read.append(given["inputs_embeds"].shape[:2].numel()),
        with_kwargs=True,
    )
    assert check_model(model) and check_model(model)
    assert sum(read) == 34 and len(read) == 8


def test_embeddings_are_those_the_model_has_now():
    lm = LM(tiny_model("gemma3", head_dim=8))
    before, bounds = lm.embed.clone(), _norm_bounds(lm, "all")
    assert lm.embed is lm.embed  # kept while nothing changes
    lm.model.get_input_embeddings().weight.mul_(2)
    assert torch.equal(lm.embed, 2 * before)
    assert torch.allclose(_norm_bounds(lm, "all")[1], 2 * bounds[1])


def test_one_row_without_a_norm_is_named():
    model = tiny_model("gpt2", tie_word_embeddings=False)
    model.get_input_embeddings().weight[97] = float("inf")
    with pytest.raises(ValueError, match="^row 97 of the embeddings is not finite"):
        generate_concepts(LM(model), [[5, 6]], steps=1)
    used = LM(model, range(90))  # a tokenizer that names 90 rows
    assert _norm_bounds(used, "used")[1].isfinite()


def test_a_template_that_asks_for_the_date_gets_the_same_one_on_any_day():
    lm = LM(tiny_model("qwen2"), tiny_tokenizer())
    lm.tokenizer.chat_template = (
        "{% if strftime_now is defined %}{{ strftime_now('%d %b %Y') }}{% endif %} "
        "{{ messages[0]['content'] }}"
    )
    assert chat_prompt(lm, "w1") == "01 Jan 2026 w1"


# What a caller's function or tensors may be


def junk(probs=None, indices=None):
    def rule(logits, config):
        rows = len(logits)
        p = torch.full((rows, 2), 0.5) if probs is None else probs.expand(rows, -1)
        i = torch.tensor([[4, 5]]) if indices is None else indices
        return p, i.expand(rows, -1)

    return rule


@pytest.mark.parametrize(
    "rule, says",
    [
        (lambda z, c: (z.softmax(-1), torch.arange(100)), "must give float probs"),
        (lambda z, c: (z[:, :0], torch.zeros(len(z), 0).long()), "must give float"),
        (junk(indices=torch.tensor([[4.0, 5.0]])), "must give float probs"),
        (junk(indices=torch.tensor([[True, False]])), "must give float probs"),
        (
            junk(probs=torch.tensor([[1.5, -0.5]])),
            "step 1 of prompt 1: the weight rule",
        ),
        (junk(probs=torch.tensor([[0.5, 0.2]])), "step 1 of prompt 1: the weight rule"),
        (junk(probs=torch.tensor([[0.5, torch.nan]])), "step 1 of prompt 1"),
    ],
)
def test_a_rule_that_gives_no_weights_is_refused(tiny, rule, says):
    with pytest.raises(ValueError, match=says):
        generate_concepts(tiny, [[5, 6]], steps=2, weight_rule=rule)


@pytest.mark.parametrize("last", [1, 8, 9, 17])
def test_a_rule_that_breaks_at_the_last_step_is_seen(tiny, last):
    calls = []

    def rule(logits, config):
        calls.append(1)
        weight = torch.nan if len(calls) == last else 1.0
        return torch.full((1, 1), weight), torch.tensor([[4]])

    with pytest.raises(ValueError, match=f"^step {last} of prompt 1: the weight rule"):
        generate_concepts(tiny, [[5, 6]], steps=last, weight_rule=rule)


def test_whole_numbers_of_any_width_name_rows(tiny):
    small = junk(indices=torch.tensor([[4, 5]], dtype=torch.uint8))
    traces = [
        generate_concepts(tiny, [[5, 6]], steps=3, weight_rule=rule)
        for rule in (junk(), small)
    ]
    assert torch.equal(traces[0].vectors, traces[1].vectors)
    embed, probs = torch.eye(4), torch.full((4,), 0.25)
    ids = torch.tensor([0, 0, 0, 1])
    assert torch.equal(mix(probs, ids.to(torch.uint8), embed), mix(probs, ids, embed))


@pytest.mark.parametrize(
    "embed",
    [
        torch.eye(4).to(torch.float8_e4m3fn),
        torch.eye(4, device="meta"),
        torch.eye(4).to_sparse(),
    ],
    ids=["float8", "meta", "sparse"],
)
def test_tensors_that_cannot_be_mixed_are_refused(tiny, embed):
    with pytest.raises(ValueError, match="mix needs"):
        mix(torch.ones(1), torch.tensor([0]), embed)
    with pytest.raises(ValueError, match="inputs_embeds must be floats"):
        generate_concepts(tiny, inputs_embeds=embed[None], steps=1)


def test_nothing_to_mix():
    none = torch.zeros(2, 0), torch.zeros(2, 0, dtype=torch.long)
    with pytest.raises(ValueError, match="K above 0"):
        mix(*none, torch.eye(4))
    no_rows = torch.zeros(0, 2), torch.zeros(0, 2, dtype=torch.long)
    assert mix(*no_rows, torch.eye(4)).shape == (0, 4)


def test_hooks_added_after_compiling_act():
    lm = LM(tiny_model("gpt2", n_layer=1))

    def tokens(compile):
        how = {"compile": compile, "stop_at_eos": False}
        return generate_concepts(lm, [[5, 6, 7]], 8, GREEDY, **how).tokens

    before = tokens(True)
    block = lm.model.transformer.h[0]
    block.register_forward_hook(lambda _, __, out: out * 0)
    assert tokens(True) == tokens(False) != before
