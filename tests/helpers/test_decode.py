"""decode.py, forward.py and plugin.py: the loop against greedy generate and against
the write-up's own way, which recomputes the prefix at every step."""

import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Cache

from experiments import floors
from helpers import (
    MixtureConfig,
    batching,
    concept_decoding,
    continue_from,
    decode,
    generate_concepts,
    left_pad,
    mix,
    mixture,
    mixture_weights,
    next_logits,
    prompt_embeds,
    weight_rules,
)
from helpers.batching import CachedForward
from helpers.compiled import OneRow
from helpers.mixture import apply_norm, norm_bounds
from helpers.models import LM
from tests.helpers.test_weight_rules import RULES
from tests.tiny import named, tiny_model, tiny_tokenizer

IDS = [[5, 9, 13, 4, 7, 21, 30], [3, 4], [8, 8, 17, 11]]  # unequal lengths
SHARPENED = mixture.sharpened
GREEDY = MixtureConfig(top_k=1)
ONE_TOKEN = {
    "one_hot": {"weight_rule": weight_rules.one_hot},
    "top_k 1": {"config": GREEDY},
    "T -> 0": {"config": MixtureConfig(temperature=1e-9)},
    "alpha -> infinity": {"config": MixtureConfig(alpha=1e9)},
}


def greedy(model, ids, new=16, **given):
    """transformers' own greedy continuation of one prompt: the new ids."""
    given = {"do_sample": False, "max_new_tokens": new, "pad_token_id": 0} | given
    return model.generate(torch.tensor([ids]), **given)[0, len(ids) :].tolist()


def by_hand(lm, ids, steps, config, rule=SHARPENED):
    """The write-up's loop: no cache, the whole prefix again at every step."""
    prefix, bounds = lm.embed[torch.tensor([ids])], norm_bounds(lm.embed, config.norm)
    chain, vectors, nats = [], [], []
    for _ in range(steps):
        with torch.no_grad():
            logits = lm.model(inputs_embeds=prefix).logits[:, -1]
        weights = mixture_weights(logits, config, rule)
        mixture = weights[:2]
        vector = apply_norm(mix(*mixture, lm.embed), *mixture, bounds, config.norm)
        unsure = weights.entropy.item() > config.gate_entropy
        if config.mode == "discrete" or (config.mode == "gated" and not unsure):
            vector = lm.embed[weights.indices[:, 0]]
        chain.append(weights.indices[0, 0].item())
        vectors.append(vector[0])
        nats.append(weights.entropy.item())
        prefix = torch.cat([prefix, vector[:, None]], dim=1)
    return chain, torch.stack(vectors), nats


# Identity: the loop with one-token weights is ordinary greedy decoding


@pytest.mark.parametrize("way", ONE_TOKEN)
def test_one_token_weights_are_greedy_generate(lm, way):
    for ids in IDS:
        trace = generate_concepts(lm, [ids], steps=16, **ONE_TOKEN[way])
        assert trace.tokens == [greedy(lm.model, ids)]
        fed = lm.embed[torch.tensor(trace.tokens[0])]
        assert torch.equal(trace.vectors[0, : len(fed)], fed)


def test_one_hot_weights_are_full_recompute(lm):
    trace = generate_concepts(
        lm, IDS[:1], steps=12, weight_rule=weight_rules.one_hot, stop_at_eos=False
    )
    chain, vectors, _ = by_hand(lm, IDS[0], 12, MixtureConfig(), weight_rules.one_hot)
    assert trace.tokens == [chain]
    assert torch.equal(trace.vectors[0], vectors)


def test_ids_and_their_embeddings_give_the_same_logits_bit_for_bit(lm):
    for ids in IDS:
        with torch.no_grad():
            expected = lm.model(torch.tensor([ids]), logits_to_keep=1).logits[:, -1]
        found = next_logits(lm, prompt_embeds(lm, [ids])[0])
        assert (found - expected).abs().max().item() == 0


@pytest.mark.parametrize("mode", ["continuous", "discrete", "gated"])
def test_the_cached_loop_is_the_write_up_s_loop(lm, mode):
    config = MixtureConfig(mode=mode, gate_entropy=2.0)
    trace = generate_concepts(lm, IDS[:1], steps=10, config=config, stop_at_eos=False)
    chain, vectors, nats = by_hand(lm, IDS[0], 10, config)
    assert trace.tokens == [chain]
    assert torch.allclose(trace.vectors[0], vectors, atol=1e-4)
    assert torch.allclose(trace.entropy[0], torch.tensor(nats), atol=1e-3)
    fed = [mode == "continuous" or (mode == "gated" and h > 2.0) for h in nats]
    assert trace.mixed[0].tolist() == fed


# A batch gives each row what it gets alone


@pytest.mark.parametrize("mode", ["continuous", "discrete", "gated"])
def test_unequal_prompts_give_what_each_gives_alone(lm, mode):
    config = MixtureConfig(mode=mode, gate_entropy=2.0)
    together = generate_concepts(lm, IDS, steps=16, config=config)
    in_two = generate_concepts(lm, IDS, steps=16, config=config, batch_size=2)
    for row, ids in enumerate(IDS):
        alone = generate_concepts(lm, [ids], steps=16, config=config)
        assert together.tokens[row] == in_two.tokens[row] == alone.tokens[0]
        assert torch.allclose(together.vectors[row], alone.vectors[0], atol=1e-3)


@pytest.mark.parametrize(
    "family, changes",
    [
        ("gpt2", {"attn_implementation": "eager"}),
        ("qwen2", {"attn_implementation": "eager"}),
        ("mistral", {"sliding_window": 4}),
        ("gemma3", {"head_dim": 8, "sliding_window": 4}),
        ("neox", {}),
        ("opt", {"word_embed_proj_dim": 32, "ffn_dim": 64}),
        ("bloom", {"n_head": 4, "n_layer": 2}),
    ],
)
def test_other_architectures_follow_their_greedy_generate(family, changes):
    """Windows, ALiBi, scaled embeddings: what cannot be padded runs row by row."""
    lm = LM(tiny_model(family, **changes))
    trace = generate_concepts(lm, IDS, steps=12, weight_rule=weight_rules.one_hot)
    assert trace.tokens == [greedy(lm.model, ids, 12) for ids in IDS]


# Stopping


def test_a_row_ends_with_the_step_that_ends_a_text(tiny):
    free = generate_concepts(tiny, IDS, steps=20, stop_at_eos=False)
    assert free.lengths.tolist() == [20] * 3 and free.indices.shape[1] == 20
    end = free.tokens[1][6]  # any token that occurs can play the end
    lm = LM(tiny.model, tiny.tokenizer)
    tiny.model.generation_config.eos_token_id = [1, end]
    try:
        trace = generate_concepts(lm, IDS, steps=20)
    finally:
        tiny.model.generation_config.eos_token_id = 2
    for row, chain in enumerate(free.tokens):
        stops = [t for t, token in enumerate(chain, 1) if token in (1, end)] or [20]
        assert trace.lengths[row] == stops[0]
        assert trace.tokens[row] == chain[: stops[0]]
        for column in (trace.probs, trace.indices, trace.entropy, trace.vectors):
            assert column.shape[:2] == (3, 20)
            assert not column[row, stops[0] :].any()
        same = slice(0, stops[0])
        assert torch.equal(trace.vectors[row, same], free.vectors[row, same])


@pytest.mark.parametrize("run", [1, 2, 3])
@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9])
def test_early_stop_stops_where_it_should(lm, quantile, run):
    """Cold Stop: the last of the first `run` steps in a row below the threshold."""
    free = generate_concepts(lm, IDS, steps=24, stop_at_eos=False)
    threshold = free.entropy.quantile(quantile).item()
    config = MixtureConfig(stop_entropy=threshold, stop_run=run)
    trace = generate_concepts(lm, IDS, steps=24, config=config, stop_at_eos=False)
    for row, nats in enumerate(free.entropy.tolist()):
        cold, expected = 0, 24
        for step, value in enumerate(nats, 1):
            cold = cold + 1 if value < threshold else 0
            if cold == run:
                expected = step
                break
        assert trace.lengths[row] == expected
        assert trace.tokens[row] == free.tokens[row][:expected]


def test_the_original_settings_stop_as_the_original_code_does(lm):
    """Entropy of softmax(z / 0.8), two steps in a row below 1 nat; by hand here."""
    free = MixtureConfig.original(stop_entropy=None)
    stopped, below = MixtureConfig.original(stop_entropy=2.0), []
    trace = generate_concepts(lm, IDS, 16, stopped, stop_at_eos=False)
    for row, ids in enumerate(IDS):
        chain, _, nats = by_hand(lm, ids, 16, free)
        cold = [a < 2 and b < 2 for a, b in zip(nats, nats[1:])]
        length = cold.index(True) + 2 if True in cold else 16
        assert trace.lengths[row] == length and trace.tokens[row] == chain[:length]
        below.append(length < 16)
        with torch.no_grad():
            logits = lm.model(input_ids=torch.tensor([ids])).logits[:, -1]
        warm = torch.distributions.Categorical(logits=logits / 0.8).entropy()
        assert nats[0] == pytest.approx(warm.item(), abs=1e-4)


def test_a_stopped_batch_is_not_computed_to_the_end(tiny, monkeypatch):
    calls, real = [], CachedForward.__call__
    monkeypatch.setattr(
        CachedForward, "__call__", lambda *a: calls.append(1) or real(*a)
    )
    config = MixtureConfig(stop_entropy=99.0, stop_run=2)
    trace = generate_concepts(tiny, IDS, steps=50, config=config)
    assert trace.lengths.tolist() == [2, 2, 2]
    assert len(calls) == decode.CHECK_EVERY


START = [11, 12, 13, 14, 15, 16, 17, 18, 19]  # long enough to be read once


@pytest.mark.parametrize("ends", [[[1, 2], [3, 4], [1, 2]], IDS, [[5], [], [5, 6]]])
def test_a_beginning_that_rows_share_is_read_once(lm, monkeypatch, ends):
    prompts, read = [START + end for end in ends], []

    def watch(_, args, given):
        read.append(given["inputs_embeds"].shape[:2].numel())

    config = MixtureConfig(top_k=10)
    shared = generate_concepts(lm, prompts, steps=6, config=config)
    watching = lm.model.register_forward_pre_hook(watch, with_kwargs=True)
    generate_concepts(lm, prompts, steps=1)
    watching.remove()
    longest, begin = max(map(len, prompts)), min(len(START), min(map(len, prompts)) - 1)
    assert read == [begin, 3 * (longest - begin)]
    monkeypatch.setattr(batching, "LEAST_SHARED", 99)
    apart = generate_concepts(lm, prompts, steps=6, config=config)
    assert shared.tokens == apart.tokens
    assert torch.allclose(shared.probs, apart.probs, atol=1e-4)
    assert torch.allclose(shared.vectors, apart.vectors, atol=1e-4)
    for prompt, tokens in zip(prompts, shared.tokens):
        assert generate_concepts(lm, prompt and [prompt], 6, config).tokens == [tokens]


def test_a_model_whose_rows_cannot_share_reads_each_whole(tiny, monkeypatch):
    x, mask = prompt_embeds(tiny, [START + end for end in IDS])
    for given in (mask, mask.bool(), mask.float()):
        assert CachedForward(tiny.model, x, given, 1).shared == len(START)
    assert CachedForward(tiny.model, x[:1], mask[:1], 1).shared == 0
    monkeypatch.delattr(Cache, "batch_repeat_interleave")
    other = tiny_model("llama")  # its rows may be padded, its cache not dealt out
    assert batching.check_model(other)
    assert CachedForward(other, x, mask, 1).shared == 0


# What a step costs and touches


def test_the_prefix_is_read_once_and_only_the_last_logits_are_made(tiny):
    sizes = []
    hook = tiny.model.register_forward_hook(
        lambda _, __, given, out: sizes.append(
            (given["inputs_embeds"].shape[1], out.logits.shape[1])
        ),
        with_kwargs=True,
    )
    generate_concepts(tiny, IDS[:1], steps=5)
    hook.remove()
    assert sizes == [(7, 1), (1, 1), (1, 1), (1, 1), (1, 1)]


class Watch(TorchDispatchMode):
    """Collects what a device would have to wait for, and anything in float64."""

    WAITS = ("_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select")
    WAITS += ("_unique2", "unique_dim", "allclose", "bincount")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        self.found = getattr(self, "found", [])
        boolean = name in ("index", "index_put", "index_put_") and any(
            i is not None and i.dtype in (torch.bool, torch.uint8) for i in args[1]
        )
        if name in self.WAITS or boolean:
            self.found.append(name)
        for x in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(x, torch.Tensor) and x.dtype == torch.float64:
                self.found.append(f"float64 from {name}")
        return out


def watched(lm, ids, config, rule=SHARPENED, steps=4):
    """What the dispatcher saw during the steps: prompt, and one position a call."""
    embeds, mask = prompt_embeds(lm, ids)
    mask = None if bool(mask.all()) else mask
    advance = decode.make_step_fn(lm, embeds, mask, steps, config, rule)
    x = embeds
    # no_grad, not inference_mode: there .item() would not be taken apart
    with torch.no_grad(), Watch() as watch:
        for _ in range(steps):
            x = advance(x)[3][:, None]
    return watch.found


@pytest.mark.parametrize("ids", [IDS, IDS[:1]], ids=["padded", "alone"])
@pytest.mark.parametrize(
    "config",
    [
        MixtureConfig(),
        MixtureConfig.appendix(),
        MixtureConfig(mode="discrete"),
        MixtureConfig(mode="gated", stop_entropy=1.0),
        MixtureConfig(norm="central"),
        MixtureConfig(norm="restore"),
        MixtureConfig(norm="over_l2"),
        MixtureConfig.original(),
        MixtureConfig.original(mode="gated"),
    ],
)
def test_a_step_never_waits_for_the_device_nor_uses_float64(lm, ids, config):
    assert watched(lm, ids, config) == []


@pytest.mark.parametrize("mode", ["continuous", "discrete", "gated"])
def test_a_step_runs_where_there_is_no_data_to_read(mode):
    """On the meta device .item(), .tolist(), .cpu() and numpy() all fail."""
    lm = LM(tiny_model("llama").to("meta"))
    embeds, mask = torch.empty(3, 7, 32, device="meta"), torch.ones(3, 7, device="meta")
    advance = decode.make_step_fn(
        lm, embeds, mask, 4, MixtureConfig(mode=mode), SHARPENED
    )
    for _ in range(4):
        probs, _, _, vector, _ = advance(embeds)
        embeds = vector[:, None]
    assert probs.shape == (3, 50) and probs.is_meta
    with pytest.raises((RuntimeError, NotImplementedError)):
        vector.tolist()


@pytest.mark.parametrize("rule", [*RULES.values(), floors.shuffled()])
def test_other_rules_do_not_wait_either(tiny, rule):
    assert watched(tiny, IDS, MixtureConfig(), rule) == []


def item(probs, indices):
    return probs * (probs[0, 0].item() > 0), indices


def branch(probs, indices):
    return (probs, indices) if probs.sum() > 0 else (indices, probs)


def double(probs, indices):
    return probs.double().float(), indices


def shape(probs, indices):
    return probs[probs >= 0].view_as(probs), indices


@pytest.mark.parametrize(
    "planted, seen",
    [
        (item, "_local_scalar_dense"),
        (branch, "_local_scalar_dense"),
        (double, "float64 from _to_copy"),
        (shape, "index"),
    ],
)
def test_planted_violations_are_seen(tiny, planted, seen):
    """The watch can fail: each of these hides one in the weight rule."""
    found = watched(
        tiny, IDS[:1], MixtureConfig(), lambda z, c: planted(*SHARPENED(z, c))
    )
    assert seen in found


def test_a_two_dimensional_mask_would_wait_inside_the_forward(tiny):
    """Why a 4-D mask is prepared: the watch covers transformers' forward as well."""
    embeds, mask = prompt_embeds(tiny, IDS)
    with torch.no_grad(), Watch() as watch:
        tiny.model(inputs_embeds=embeds, attention_mask=mask)
    assert any(name in Watch.WAITS for name in watch.found)


# Compiled


@pytest.mark.parametrize("family", ["gpt2", "qwen2"])
def test_compiled_steps_give_the_same_tokens(family):
    lm = LM(tiny_model(family, num_hidden_layers=1))
    for ids in ([IDS[0]], [IDS[2]], [IDS[0][:4]]):
        eager = generate_concepts(lm, ids, steps=12)
        fast = generate_concepts(lm, ids, steps=12, compile=True)
        assert fast.tokens == eager.tokens
        assert torch.allclose(fast.vectors, eager.vectors, atol=1e-4)
    graphs = [key for key in lm._cache if key[0] == "compiled"]
    assert len(graphs) == 1  # for all three
    coded = MixtureConfig.original()
    eager, fast = (
        generate_concepts(lm, IDS[0:1], 12, coded, compile=c) for c in (False, True)
    )
    assert fast.tokens == eager.tokens
    assert torch.allclose(fast.entropy, eager.entropy, atol=1e-4)


class Products(TorchDispatchMode):
    """Counts calls of the library's matrix products."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func._schema.name in ("aten::mm", "aten::addmm", "aten::bmm")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "shape, sums",
    [((1, 16), True), ((1, 1, 16), True), ((2, 16), False), ((1, 2, 16), False)],
)
def test_one_row_is_summed_and_more_are_left_alone(shape, sums):
    torch.manual_seed(0)
    x, weight, bias = torch.randn(shape), torch.randn(16, 24), torch.randn(24)
    flat, linear = x.view(-1, 16), torch.nn.functional.linear
    calls = [
        (torch.addmm, (bias, flat, weight)),
        (linear, (x, weight.T)),
        (linear, (x, weight.T, bias)),
    ]
    for call, given in calls:
        with Products() as library:
            expected = call(*given)
        with OneRow(), Products() as ours:
            found = call(*given)
        assert library.count == 1 and ours.count == (0 if sums else 1)
        assert found.shape == expected.shape
        assert torch.allclose(found, expected, atol=1e-5)
        assert sums or torch.equal(found, expected)


def test_one_row_leaves_alone_what_it_was_not_measured_on():
    x, weight, bias = torch.randn(1, 16), torch.randn(16, 24), torch.randn(24)
    half = x.bfloat16(), weight.bfloat16()
    uneven = x[:, :15], weight[:15]
    with OneRow(), Products() as products:
        torch.addmm(bias.bfloat16(), *half)
        torch.nn.functional.linear(half[0], half[1].T)
        torch.addmm(bias, *uneven)
        scaled = torch.addmm(bias, x, weight, beta=2)
    assert products.count == 4
    assert torch.equal(scaled, torch.addmm(bias, x, weight, beta=2))


def test_what_cannot_be_compiled_is_refused():
    lm = LM(tiny_model("qwen2", num_hidden_layers=1))
    with pytest.raises(ValueError, match="compile=True"):
        generate_concepts(lm, IDS, weight_rule=weight_rules.gumbel(), compile=True)
    windowed = LM(tiny_model("mistral", sliding_window=4))
    with pytest.raises(ValueError, match="full attention"):
        generate_concepts(windowed, IDS, compile=True)


# continue_from, next_logits, inputs


def test_continue_from_is_greedy_generate_from_embeddings(lm):
    embeds, mask = prompt_embeds(lm, IDS)
    found = continue_from(lm, embeds, mask, 16, return_ids=True)
    assert found == [greedy(lm.model, ids) for ids in IDS]
    rows = [lm.embed[torch.tensor(ids)] for ids in IDS]
    assert continue_from(lm, rows, max_new_tokens=16, return_ids=True) == found
    texts = continue_from(lm, embeds, mask, max_new_tokens=16)
    assert texts == lm.tokenizer.batch_decode(found, skip_special_tokens=True)
    assert continue_from(lm, rows[1], max_new_tokens=16) == texts[1:2]
    expected = lm.model.generate(
        inputs_embeds=embeds[:1], max_new_tokens=16, do_sample=False, pad_token_id=0
    )
    assert found[0] == expected[0].tolist()


def test_one_vector_prompts_move_on(lm):
    """transformers 4.49 to 4.57 fed a one-vector prompt again at every step."""
    found = continue_from(lm, lm.embed[[5]], None, 12, return_ids=True)
    assert found == [greedy(lm.model, [5], 12)]


def test_next_logits_of_any_batch_are_those_of_each_alone(lm):
    rows = [lm.embed[torch.tensor(ids)] for ids in IDS]
    rows[1] = rows[1] + 0.1  # any vectors, not only rows
    together = next_logits(lm, rows)
    assert together.dtype == torch.float32
    for row, found in zip(rows, together):
        with torch.no_grad():
            alone = lm.model(inputs_embeds=row[None], logits_to_keep=1).logits[0, -1]
        assert torch.allclose(found, alone, atol=1e-3)
        assert torch.equal(next_logits(lm, [row], batch_size=1)[0], alone)


def test_texts_ids_and_embeddings_are_the_same_prompt(tiny):
    text = tiny.tokenizer.decode(IDS[0])
    traces = [
        generate_concepts(tiny, text, steps=4),
        generate_concepts(tiny, [text], steps=4),
        generate_concepts(tiny, [torch.tensor(IDS[0])], steps=4),
        generate_concepts(tiny, steps=4, inputs_embeds=prompt_embeds(tiny, text)[0]),
        generate_concepts(tiny, steps=4, inputs_embeds=[tiny.embed[IDS[0]]]),
    ]
    for trace in traces[1:]:
        assert torch.equal(trace.vectors, traces[0].vectors)


def test_the_trace_and_its_rows(tiny):
    trace = generate_concepts(tiny, IDS, steps=3, config=MixtureConfig(top_k=7))
    assert trace.probs.shape == trace.indices.shape == (3, 3, 7)
    assert trace.vectors.shape == (3, 3, 32) and trace.entropy.shape == (3, 3)
    assert not trace.vectors.is_inference()
    frame = trace.to_frame(top=2)
    assert len(frame) == 2 * trace.lengths.sum().item()
    first = frame.iloc[0]
    assert (first.prompt, first.step, first["rank"]) == (0, 1, 1)
    assert first.token == tiny.tokenizer.decode([first.id])
    assert first.prob == pytest.approx(trace.probs[0, 0, 0].item())
    assert generate_concepts(LM(tiny.model), IDS).to_frame().token[0].isdigit()


def test_weight_rules_can_be_any_function(tiny):
    def last_token(logits, config):
        ids = torch.full((len(logits), 1), 98, device=logits.device)
        return torch.ones_like(ids, dtype=logits.dtype), ids

    trace = generate_concepts(tiny, IDS, steps=3, weight_rule=last_token)
    assert trace.tokens == [[98] * 3] * 3


def test_no_progress_bar_where_there_is_no_terminal(tiny, capfd):
    generate_concepts(tiny, IDS, steps=10)
    assert capfd.readouterr() == ("", "")


# The plug-in


def left_padded(ids):
    longest = max(map(len, ids))
    rows = [[0] * (longest - len(row)) + row for row in ids]
    ids = torch.tensor(rows)
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def test_plug_in_with_one_token_weights_is_greedy_generate(lm):
    given = {"max_new_tokens": 16, "do_sample": False, "pad_token_id": 0}
    for ids in (IDS[:1], IDS):
        inputs = left_padded(ids)
        expected = lm.model.generate(**inputs, **given)
        for method in (
            concept_decoding(GREEDY),
            concept_decoding(None, weight_rules.one_hot),
        ):
            found = lm.model.generate(**inputs, **given, custom_generate=method)
            assert torch.equal(found, expected)


def test_plug_in_returns_the_argmax_chain_of_the_loop(lm):
    for ids in IDS:
        found = lm.model.generate(
            torch.tensor([ids]),
            custom_generate=concept_decoding(MixtureConfig()),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
        )
        trace = generate_concepts(lm, [ids], steps=12)
        assert found[0].tolist() == ids + trace.tokens[0]


def test_plug_in_takes_generate_s_own_settings(tiny):
    """Processors, embeddings, stopping criteria and dict output, as generate does."""
    plug = {"custom_generate": concept_decoding(GREEDY)}
    base = {"max_new_tokens": 16, "do_sample": False, "pad_token_id": 0}
    ids = {"input_ids": torch.tensor(IDS[:1])}
    embeds = {"inputs_embeds": tiny.embed[torch.tensor(IDS[:1])]}
    end = greedy(tiny.model, IDS[0])[9]
    for given in (
        ids | {"repetition_penalty": 1.5},
        ids | {"eos_token_id": end},
        ids | {"min_new_tokens": 14, "eos_token_id": end},
        ids | {"return_dict_in_generate": True},
        ids | {"max_time": 60.0},
        embeds,
    ):
        expected = tiny.model.generate(**base | given)
        found = tiny.model.generate(**base | given, **plug)
        if "return_dict_in_generate" in given:
            expected, found = expected.sequences, found.sequences
        assert torch.equal(found, expected)


class Streamer:
    """Takes tokens as they are made."""

    def put(self, value):
        pass

    end = put


@pytest.mark.parametrize(
    "given",
    [
        {"num_beams": 2},
        {"num_return_sequences": 2},
        {"output_scores": True},
        {"output_hidden_states": True},
        {"do_sample": True},
        {"prompt_lookup_num_tokens": 3},
        {"streamer": Streamer()},
        {"assistant_model": tiny_model("qwen2")},
    ],
    ids=lambda given: next(iter(given)),
)
def test_plug_in_refuses_what_it_cannot_do(tiny, given):
    given = {"do_sample": "num_return_sequences" in given} | given
    with pytest.raises(ValueError, match="^concept_decoding[^\n]*$"):
        tiny.model.generate(
            torch.tensor(IDS[:1]),
            custom_generate=concept_decoding(),
            max_new_tokens=4,
            pad_token_id=0,
            **given,
        )


# Bad input is refused in one line, before the model is called


@pytest.mark.parametrize(
    "given, says",
    [
        ({"prompts": []}, "at least one"),
        ({"prompts": [""]}, "prompt 1 is empty"),
        ({"prompts": ["w1", []]}, "prompt 2 is empty"),
        ({"prompts": [[100]]}, "0 to 99"),
        ({"prompts": [[-1]]}, "0 to 99"),
        ({"prompts": [[[1, 2]]]}, "0 to 99"),
        ({"prompts": [[3] * 65]}, "64"),
        ({"prompts": [[3] * 60], "steps": 6}, "64"),
        ({"prompts": ["w1"], "steps": 0}, "steps"),
        ({"prompts": ["w1"], "steps": 1.5}, "steps"),
        ({"prompts": ["w1"], "batch_size": 0}, "batch_size"),
        ({}, "either prompts or inputs_embeds"),
        ({"inputs_embeds": torch.zeros(1, 2, 31)}, "32"),
        ({"inputs_embeds": torch.zeros(1, 0, 32)}, "32"),
        ({"inputs_embeds": torch.zeros(2, 32)}, "32"),
        (
            {
                "inputs_embeds": torch.zeros(1, 3, 32),
                "attention_mask": torch.tensor([[1, 1, 0]]),
            },
            "left-padded",
        ),
        (
            {
                "inputs_embeds": torch.zeros(1, 3, 32),
                "attention_mask": torch.ones(1, 4),
            },
            "left-padded",
        ),
    ],
)
def test_bad_input_is_refused_before_the_first_step(tiny, given, says, monkeypatch):
    monkeypatch.setattr(tiny.model, "forward", lambda *_, **__: pytest.fail("called"))
    with pytest.raises(ValueError) as refused:
        generate_concepts(tiny, **{"steps": 2} | given)
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_a_model_that_states_no_context_length_runs():
    model = tiny_model("bloom", n_head=4, n_layer=1)
    del model.config.max_position_embeddings
    assert generate_concepts(LM(model), IDS[:1], steps=2).lengths == 2


def test_a_context_filled_to_the_last_position_runs(tiny):
    assert generate_concepts(tiny, [[3] * 60], steps=5).lengths == 5


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_break_are_reported_with_their_step(tiny, value):
    model = tiny_model("qwen2")
    batching.check_model(model)  # its own calls are over

    def spoil(_, __, out, calls=[]):  # noqa: B006
        calls.append(1)
        if len(calls) == 4:
            out.logits[1] = value

    model.register_forward_hook(spoil)
    with pytest.raises(ValueError, match="^step 4 of prompt 2: [^\n]*$"):
        generate_concepts(LM(model, tiny_tokenizer()), IDS, steps=6)


def test_left_pad_and_prompt_embeds():
    lm = named("gpt2")
    embeds, mask = prompt_embeds(lm, IDS)
    assert mask.tolist() == [[0] * (7 - len(i)) + [1] * len(i) for i in IDS]
    assert torch.equal(embeds[1, -2:], lm.embed[IDS[1]]) and not embeds[1, :-2].any()
    assert torch.equal(left_pad([lm.embed[i] for i in IDS])[0], embeds)
    with pytest.raises(ValueError, match="no tokenizer"):
        prompt_embeds(LM(lm.model), "w1")
