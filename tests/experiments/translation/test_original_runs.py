"""The original experiments run again: prompts, seeds, the cut, and what it makes of
an answer that is known.

`Scripted` writes one given answer after every prompt, whatever it is fed.
"""

import pandas as pd
import pytest
import torch
from transformers import (
    AutoTokenizer,
    Qwen2ForCausalLM,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from experiments.translation import continuations, original_runs
from harness import claims, judge
from harness.files import ROOT
from helpers.models import LM
from tests.tiny import tiny_config

TOKENIZERS = {"Qwen": "qwen2.5-1.5b-instruct", "gpt2": "gpt2"}
ANSWER = "The cat sees the bread. The capital of France is Paris. The dog wants milk."
OTHER_TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} [end]{% endfor %}"
    "{% if add_generation_prompt %}[answer]{% endif %}"
)


class Scripted(Qwen2ForCausalLM):
    """A random model whose logits are replaced: it writes `answer`, token by token."""

    answer: list[int]

    def forward(self, input_ids=None, inputs_embeds=None, **inputs):
        out = super().forward(input_ids, inputs_embeds=inputs_embeds, **inputs)
        self.step = 0 if inputs_embeds is not None else self.step + 1
        sure = torch.full_like(out.logits, -1e4)
        sure[..., self.answer[min(self.step, len(self.answer) - 1)]] = 0
        out.logits = sure
        return out


class ReturnsThePrompt(Scripted):
    """The same, with a `generate` that returns places for the prompt before the new."""

    def generate(self, inputs_embeds, **inputs):
        new = super().generate(inputs_embeds=inputs_embeds, **inputs)
        space = self.answer[0]
        return torch.nn.functional.pad(new, (inputs_embeds.shape[1], 0), value=space)


def scripted(kind=Scripted, answer=ANSWER):
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "mini-qwen2")
    torch.manual_seed(0)
    ends = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": None}
    size = {"vocab_size": len(tokenizer), "max_position_embeddings": 256}
    model = kind(tiny_config("qwen2", **ends, **size, bos_token_id=None)).eval()
    model.answer = [*tokenizer(answer)["input_ids"], tokenizer.eos_token_id]
    return LM(model, tokenizer, "scripted")


@pytest.fixture(scope="module")
def worded():
    """A tiny random GPT-2 with the mini tokenizer."""
    from transformers import GPT2LMHeadModel

    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models" / "mini-gpt2")
    torch.manual_seed(0)
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id}
    size = {"vocab_size": len(tokenizer), "n_positions": 128, "pad_token_id": None}
    model = GPT2LMHeadModel(tiny_config("gpt2", **ends, **size)).eval()
    return LM(model, tokenizer, "tiny")


def run_of(name):
    return original_runs.experiments().loc[name]


@pytest.mark.parametrize("model", TOKENIZERS)
def test_prompts_are_as_long_as_the_originals(model):
    folder = ROOT.parent / "shared" / "tokenizers" / TOKENIZERS[model]
    if not folder.is_dir():
        pytest.skip("the paper's tokenizers are not at hand")
    lm = LM(None, AutoTokenizer.from_pretrained(folder))
    for name, run in original_runs.experiments(model).iterrows():
        ids = original_runs.piece_ids(lm, original_runs.own_markers(lm, run["pieces"]))
        length = sum(p if isinstance(p, int) else len(p) for p in ids)
        assert length == run["vectors"], name


def test_settings_are_those_of_the_run():
    settings = original_runs.experiments()["settings"]
    assert settings["method-3"] == {
        "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.1
    }  # fmt: skip
    assert settings["gpt2-completion-france"]["top_p"] == 0.95
    assert settings["qwen-instruction-france"] == {
        "temperature": 0.8, "top_k": 50, "top_p": 0.8, "repetition_penalty": 1.2
    }  # fmt: skip
    assert all(s["temperature"] < 1 and s["top_k"] for s in settings)


def test_the_answer_is_cut_after_as_many_tokens_as_the_prompt_has_vectors():
    lm = scripted()
    rows = original_runs.run_experiment(lm, run_of("method-3"), samples=2)
    ids, decode = lm.model.answer[:20], lm.tokenizer.decode
    for row in rows:
        n = row["prompt_length"]
        assert row["ids"] == ids and 0 < n < 20
        assert row["whole"] == decode(ids, skip_special_tokens=True)
        assert row["cut"] == decode(ids[n:], skip_special_tokens=True) == row["tail"]
        assert row["whole"].endswith(row["cut"] or "?") and "Paris" in row["whole"]
        assert (row["says_whole"], row["says_cut"]) == (1, int("Paris" in row["cut"]))
    fed = {row["filling"] for row in rows}
    assert fed == {"concept tokens", *original_runs.CONTROLS}
    # a prompt longer than the tokens allowed leaves nothing
    for row in original_runs.run_experiment(lm, run_of("qwen-instruction-france"), 2):
        assert row["says_whole"] == row["empty_cut"] == 1 and row["says_cut"] == 0


def test_an_answer_that_stands_in_the_prompt_is_no_reading():
    echo = scripted(answer="the capital of France")
    for name, said in (("method-3", 0), ("qwen-completion-france", 1)):
        rows = original_runs.run_experiment(echo, run_of(name), samples=1)
        assert {row["says_whole"] for row in rows} == {said}


@pytest.mark.parametrize(
    "kind, verdict", [(Scripted, "artefact"), (ReturnsThePrompt, "reproduced")]
)
def test_r5a_is_decided_by_what_generate_returns(kind, verdict):
    rows = original_runs.run_experiment(scripted(kind), run_of("method-3"), 50)
    rows = pd.DataFrame(rows).assign(experiment="method-3")
    parts = original_runs.cut_parts(rows)
    mismatch = continuations.tokenizer_mismatch(continuations.PARIS)
    parts |= {"tokenizer_mismatch": mismatch}
    measured = [claims.measured("R5a", part, e) for part, e in parts.items()]
    assert judge.judge("R5a", measured, "mini").verdict == verdict


@pytest.mark.parametrize(
    "after, ceiling, verdict",
    [
        ({"concept tokens": "Париж"}, "Paris, 巴黎", "reproduced"),
        (
            dict.fromkeys(["concept tokens", "top tokens"], "巴黎"),
            "Paris 巴黎",
            "partly",
        ),
        ({"random vectors": "Париж"}, "Paris, 巴黎", "not reproduced"),
        ({"concept tokens": "Париж"}, "Paris 1º", "not tested"),
    ],
)
def test_r5b_is_decided_by_the_scripts_after_concept_tokens_and_controls(
    after, ceiling, verdict
):
    said = dict.fromkeys(["concept tokens", *original_runs.CONTROLS], "Paris, ª, ｆ")
    said |= after | {"text": ceiling}
    rows = [
        {"experiment": "method-3", "filling": filling, "whole": text}
        for filling, text in said.items()
        for _ in range(64)
    ]
    parts = original_runs.language_parts(pd.DataFrame(rows))
    measured = [claims.measured("R5b", part, e, cell="m") for part, e in parts.items()]
    assert judge.judge("R5b", measured, "mini").verdict == verdict


def test_samples_repeat_with_their_seed_and_differ_without_it(worded):
    run = run_of("gpt2-completion-france")
    first, again, other = (
        original_runs.run_experiment(worded, run, 4, seed) for seed in (3, 3, 4)
    )
    assert first == again
    assert [row["ids"] for row in first] != [row["ids"] for row in other]
    assert len({tuple(row["ids"]) for row in first}) > 10  # samples, not copies
    state = torch.random.get_rng_state()
    original_runs.run_experiment(worded, run, 1)
    assert torch.equal(state, torch.random.get_rng_state())


def test_fillings_differ_in_the_slot_alone_and_keep_its_norms(worded):
    rows = original_runs.fillings(worded, run_of("gpt2-completion-france"), 9)
    own = rows["concept tokens"]
    differs = (own[0] != rows["other prompt"][0]).any(-1)
    slot = differs.nonzero().flatten()
    assert len(slot) == 2 and len({len(x) for x in own}) == 1
    for name in ("top tokens", "random vectors", "other prompt"):
        assert torch.equal(own[0][~differs], rows[name][0][~differs])
    norms = (x[0][slot].norm(dim=-1) for x in (own, rows["random vectors"]))
    assert torch.allclose(*norms)
    assert not torch.equal(*rows["random vectors"][:2])
    other = rows["other prompt"]
    assert torch.equal(other[0], other[8]) and not torch.equal(other[0], other[1])
    typed = worded.tokenizer("The meaning of Paris in plain English is")["input_ids"]
    assert torch.equal(rows["text"][0], worded.embed[typed])
    (noise,) = original_runs.fillings(worded, run_of("noise-five"), 2).values()
    assert noise[0].shape == (5, 32) and not torch.equal(*noise)
    assert noise[0].std() == pytest.approx(worded.embed.std().item(), rel=0.3)


def test_concept_tokens_are_those_of_the_loop(worded):
    from experiments.translation.stimuli import write_concepts

    prompt = "The capital of France is"
    vectors, top = original_runs.write_vectors(worded, prompt, 3)
    (looped,) = write_concepts(worded, [prompt], [3], original_runs.WEIGHTS)
    assert torch.allclose(vectors, looped.vectors, atol=1e-5)
    assert top.tolist() == looped.indices[:, 0].tolist()


def test_positions_are_added_twice_where_asked(worded):
    run = run_of("gpt2-completion-france")
    once, twice = (
        original_runs.fillings(worded, run, 1, doubled=doubled)["text"][0]
        for doubled in (False, True)
    )
    positions = worded.model.transformer.wpe.weight[: len(once)]
    assert torch.allclose(twice - once, positions, atol=1e-6)
    assert original_runs.can_double(worded) and not original_runs.can_double(scripted())


def test_the_models_own_template_stands_for_qwens_markers(worded):
    pieces = original_runs.experiments()["pieces"]
    assert original_runs.untested_reason(worded, pieces["noise-five"]) == ""
    reason = original_runs.untested_reason(worded, pieces["method-3"])
    assert reason == original_runs.NO_MARKERS
    other = AutoTokenizer.from_pretrained(ROOT / "models" / "mini-gpt2")
    other.chat_template = OTHER_TEMPLATE
    lm = LM(worded.model, other, "other")
    assert original_runs.own_markers(lm, pieces["method-3"]) == [
        "The capital of France is", 2, "[answer]"
    ]  # fmt: skip
    system = "[system] You are Qwen, created by Alibaba Cloud. You are a helpful "
    system += "assistant. [end][user] "
    assert original_runs.own_markers(lm, pieces["method-1"]) == [
        f"{system}Please complete: The capital of France is ", 2, " [end][answer]"
    ]  # fmt: skip
    assert original_runs.own_markers(lm, pieces["method-2"]) == [
        f"{system}The capital of France is [end][answer]", 2
    ]  # fmt: skip
    other.chat_template = "{{ raise_exception('no system turn') }}"
    reason = original_runs.untested_reason(lm, pieces["method-1"])
    assert reason == original_runs.NO_TURNS
    rows, reasons = original_runs.run_all(lm, "Qwen", samples=1)
    assert "method-3" in reasons and "qwen-completion-france" not in reasons
    assert set(rows["experiment"]).isdisjoint(reasons)


def test_tables_show_every_experiment_once_a_way(worded):
    rows, reasons = original_runs.run_all(worded, "gpt2", samples=2)
    found = original_runs.shares(rows)
    table = original_runs.run_table(rows, found)
    runs = original_runs.experiments("gpt2").index
    assert list(table.index) == [(r, p) for r in runs for p in ("once", "twice")]
    assert not reasons and set(table["fed"]) == {"concept tokens"}
    dots = original_runs.said_dots(found)
    shown = [r for r in runs if original_runs.experiments()["gold"][r]]
    others = len(runs) - len(shown)  # of these: any text, whole and cut
    assert len(dots) == 2 * (len(shown) * len(original_runs.SHOWN) + others * 2)
    assert len(original_runs.answer_examples(rows)) == len(table)


@pytest.mark.parametrize("top_k, top_p", [(50, 1.0), (20, 0.8), (0, 0.9), (0, 1.0)])
def test_the_filter_leaves_the_probabilities_that_generate_would(top_k, top_p):
    scores = torch.randn(8, 300, generator=torch.Generator().manual_seed(0)) * 3
    settings = {"temperature": 0.7, "top_k": top_k, "top_p": top_p}
    keep = original_runs._filter(settings, 300)
    expected = TemperatureLogitsWarper(0.7)(None, scores)
    if top_k:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    found = keep(None, scores).softmax(-1)
    torch.testing.assert_close(found, expected.softmax(-1))
