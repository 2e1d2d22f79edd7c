"""A user's mistakes: one line that names the value, before work starts, from anywhere.

What single modules refuse is tested with them (test_mixture, test_models, test_decode,
test_run). Here: arguments of the wrong kind, anything at all by fuzzing, `make`, and
text from a model that would steer a page or a terminal.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import warnings

import IPython.display
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import charts, claims, figures, files, safe_text, tables
from harness.run import cli, options
from helpers import (
    MixtureConfig,
    chat_prompt,
    checkpoints,
    concept_decoding,
    continue_from,
    generate_concepts,
    left_pad,
    load,
    mix,
    mixture_weights,
    next_logits,
    prompt_embeds,
)
from helpers.models import LM
from tests.tiny import named, tiny_model, tiny_tokenizer

TINY = named("qwen2")
BARE = LM(TINY.model)
FLOATS, WHOLE = torch.ones(1, 2, 32), torch.ones(1, 2, 32, dtype=torch.long)


def one_line(error: BaseException) -> str:
    """The message, if it is a refusal as this project makes them."""
    said = str(error)
    assert isinstance(error, (ValueError, OSError, MemoryError)), repr(error)
    assert said and "\n" not in said and len(said) < 400, said
    return said


# Arguments of the wrong kind: what was given and what was expected

MISTAKES = [
    ("prompts must be .*, not 5", generate_concepts, (TINY, 5), {}),
    ("not a BatchEncoding", generate_concepts, (TINY, TINY.tokenizer("w1")), {}),
    ("prompt 1 must be", generate_concepts, (TINY, [None]), {}),
    ("prompt 2 must be", generate_concepts, (TINY, ["w1", [[1], [1, 2]]]), {}),
    ("prompt 1 must be", generate_concepts, (TINY, [[2**70]]), {}),
    ("prompt 1 holds .*ud800", generate_concepts, (TINY, "w1 \ud800"), {}),
    ("lm must be .*'mini-gpt2'", generate_concepts, ("mini-gpt2", "w1"), {}),
    ("config .* not a dict", generate_concepts, (TINY, "w1"), {"config": {"top_k": 1}}),
    ("weight_rule .* 3", generate_concepts, (TINY, "w1"), {"weight_rule": 3}),
    ("attention_mask goes with", generate_concepts, (TINY, "w1"),
     {"attention_mask": torch.ones(1, 1)}),
    ("attention_mask must", generate_concepts, (TINY,),
     {"inputs_embeds": FLOATS, "attention_mask": [[1, 1]]}),
    ("torch.int64", generate_concepts, (TINY,), {"inputs_embeds": WHOLE}),
    ("float tensors", generate_concepts, (TINY,), {"inputs_embeds": [[1.0]]}),
    ("step 1 of prompt 1", generate_concepts, (TINY,), {"inputs_embeds": FLOATS / 0}),
    ("inputs_embeds .*'w1'", continue_from, (TINY, "w1"), {}),
    ("needs inputs_embeds", continue_from, (TINY, None), {}),
    ("LM with a tokenizer", continue_from, (BARE, FLOATS), {}),
    ("of one width", continue_from, (TINY, [FLOATS[0], FLOATS[0, :, :31]]), {}),
    ("logits must be floats .* list", mixture_weights, ([1.0],), {}),
    ("logits must be floats .*int64", mixture_weights, (WHOLE[0],), {}),
    ("config", mixture_weights, (FLOATS[0], "sharp"), {}),
    ("0 to 3, .* not 1 to 9", mix,
     (torch.ones(2), torch.tensor([1, 9]), torch.ones(4, 3)), {}),
    ("0 to 3, .* not -1 to 2", mix,
     (torch.ones(2), torch.tensor([-1, 2]), torch.ones(4, 3)), {}),
    ("mix needs", mix, (torch.ones(2), torch.ones(2), torch.ones(4, 3)), {}),
    ("temperature .*True", MixtureConfig, (), {"temperature": True}),
    ("config must be", concept_decoding, ("sharp",), {}),
    ("no model '~nobody9/x'", load, ("~nobody9/x",), {}),
    ("no model 'aaa", load, ("a" * 5000,), {}),
    ("device must be .*'cpu:x'", load, ("mini-gpt2",), {"device": "cpu:x"}),
]  # fmt: skip


@pytest.mark.parametrize("says, call, args, more", MISTAKES, ids=range(len(MISTAKES)))
def test_arguments_of_the_wrong_kind_are_named(says, call, args, more):
    with pytest.raises(ValueError if call is not load else (ValueError, OSError)) as e:
        call(*args, **more)
    assert re.search(says, one_line(e.value)), e.value


# Anything at all: a result or a refusal, never an error from inside a dependency


def tensors():
    shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)
    shapes |= st.sampled_from([(1, 2, 32), (3, 32), (2, 100), (100,)])
    kinds = st.sampled_from([torch.float32, torch.float16, torch.int64, torch.bool])
    fills = st.sampled_from([0, 1, -1, float("nan"), float("inf"), -float("inf")])

    def build(shape, kind, fill):
        finite = fill if kind.is_floating_point or abs(fill) < 2 else 0
        return torch.full(shape, finite, dtype=kind)

    return st.builds(build, shapes, kinds, fills)


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=6),
    st.sampled_from(["\ud800", "\x00", "w1 w2", b"w1", 2**80, np.float32(1), object()]),
)  # fmt: skip
ANYTHING = st.one_of(
    SCALARS, tensors(), st.lists(SCALARS | tensors(), max_size=3),
    st.lists(st.lists(st.integers(-2, 101), max_size=3), max_size=3),
    st.dictionaries(st.text(max_size=2), SCALARS, max_size=2),
)  # fmt: skip
LMS = st.sampled_from([TINY, TINY, TINY, BARE]) | SCALARS
CONFIGS = st.none() | st.just(MixtureConfig(top_k=3)) | SCALARS
TEXT_OR = st.just("w1 w2") | ANYTHING
MOST = st.integers(1, 9) | SCALARS

FUZZED = {
    "MixtureConfig": (MixtureConfig, [], st.fixed_dictionaries({}, optional={
        name: SCALARS for name in MixtureConfig.__dataclass_fields__})),
    "mixture_weights": (mixture_weights, [ANYTHING, CONFIGS], None),
    "mix": (mix, [ANYTHING, ANYTHING, tensors() | SCALARS], None),
    "generate_concepts": (generate_concepts, [LMS, TEXT_OR, MOST, CONFIGS], None),
    "from embeddings": (generate_concepts, [LMS], st.fixed_dictionaries(
        {"inputs_embeds": ANYTHING, "steps": MOST}, optional={
            "attention_mask": ANYTHING, "batch_size": MOST})),
    "continue_from": (continue_from, [LMS, ANYTHING, ANYTHING, MOST], None),
    "next_logits": (next_logits, [LMS, ANYTHING, ANYTHING], None),
    "prompt_embeds": (prompt_embeds, [LMS, TEXT_OR], None),
    "left_pad": (left_pad, [ANYTHING], None),
    "chat_prompt": (chat_prompt, [LMS, ANYTHING], None),
    "load": (load, [SCALARS], st.fixed_dictionaries({}, optional={
        "device": SCALARS, "dtype": SCALARS})),
}  # fmt: skip


@pytest.mark.parametrize("name", FUZZED)
def test_anything_is_answered_or_refused(name):
    call, arguments, more = FUZZED[name]

    @settings(max_examples=60, deadline=5000, derandomize=True, database=None)
    @given(st.tuples(*arguments), st.just({}) if more is None else more)
    def tried(args, keywords):
        try:
            call(*args, **keywords)
        except Exception as error:
            one_line(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tried()


# Through the command


def refused_by_run(capsys, *asked) -> str:
    assert cli.main(["reproduce", *asked]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ") and printed.err.count("\n") == 1
    assert "Traceback" not in printed.out + printed.err and not printed.out
    return printed.err


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A whole model folder; whatever is written goes to a folder of the test."""
    monkeypatch.setenv("REPRODUCE_OUT", str(tmp_path / "out"))
    folder = tmp_path / "model"
    tiny_model("gpt2").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("asked, says", [
    (["BASE=nowhere", "SET=x"], "no model 'nowhere'"),
    (["DTYPE=int4"], "DTYPE='int4': expected one of float32"),
    (["DEVICE=tpu"], "DEVICE='tpu': expected auto, cpu"),
    (["SEED=-1"], "SEED=-1: expected 0 to"),
    (["SEED=many"], "invalid int value: 'many'"),
    (["SET=../up"], "SET='../up': use letters"),
])  # fmt: skip
def test_make_reproduce_ends_in_one_line(asked, says, tmp_path):
    make = ["make", "-s", "-o", ".venv/.ready", f"PY={sys.executable}", "reproduce"]
    env = os.environ | {"REPRODUCE_OUT": str(tmp_path)}
    env = {k: v for k, v in env.items() if not k.startswith(("MAKE", "MFLAGS"))}
    done = subprocess.run(
        [*make, *asked], cwd=files.ROOT, env=env, capture_output=True, text=True
    )
    lines = [x for x in done.stderr.splitlines() if not x.startswith("make")]
    assert done.returncode == 2 and len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ") and says in lines[0]
    assert not done.stdout and not any(tmp_path.iterdir())


def test_the_paper_s_set_without_a_network_names_the_set_that_works(capsys):
    # conftest forbids the network; HF_HUB_OFFLINE is what a cut cable looks like too
    for asked in (["--set", "paper"], ["--set", "x", "--base", checkpoints.GPT2[0]]):
        said = refused_by_run(capsys, *asked)
        assert (
            checkpoints.GPT2[1] in said
            and 'the set "mini"' in said
            and "offline" in said
        )


def test_a_hub_that_does_not_answer_is_not_asked_again_and_again(monkeypatch, capsys):
    import socket

    from huggingface_hub import constants

    asked = []

    def refuse(address, seconds):
        asked.append(address)
        raise OSError("no route")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(socket, "create_connection", refuse)
    for name in [n for n in os.environ if n.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    said = refused_by_run(capsys, "--set", "paper")
    assert len(asked) == 1 and asked[0][1] == 443 and 'the set "mini"' in said


def test_verdicts_of_a_set_that_has_none(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REPRODUCE_OUT", str(tmp_path))
    assert cli.main(["verdicts", "--set", "nope"]) == 2
    assert "make reproduce SET=nope" in capsys.readouterr().err


def test_models_are_checked_before_a_notebook_is_started(model, capsys, monkeypatch):
    asked = ["--set", "x", "--base", str(model)]
    free = (
        checkpoints.count_parameters(model) * 4
    )  # a fifth more is needed than the weights
    monkeypatch.setattr(checkpoints, "free_memory", lambda: free)
    assert "needs about" in (said := refused_by_run(capsys, *asked)), said
    assert "bfloat16" in said
    monkeypatch.undo()
    said = refused_by_run(capsys, *asked, "--instruct", str(model))
    assert "no chat template" in said
    twin = model.parent / "other" / "model"
    shutil.copytree(model, twin)
    said = refused_by_run(capsys, *asked, "--instruct", str(twin))
    assert "both called 'model'" in said and "rename" in said
    (model / "SHA256").write_text(f"{'0' * 64}  model.safetensors\n")
    assert "does not match its checksum" in refused_by_run(capsys, *asked)
    (model / "SHA256").unlink()
    weights = (model / "model.safetensors").read_bytes()
    for header in (b"[]", b'{"a":{}}', b'{"a":{"shape":null}}', b"{"):
        size = len(header).to_bytes(8, "little")
        (model / "model.safetensors").write_bytes(size + header)
        assert "is not a safetensors file" in refused_by_run(capsys, *asked)
    (model / "model.safetensors").write_bytes(weights[:7])
    assert "is not a safetensors file" in refused_by_run(capsys, *asked)
    (model / "model.safetensors").write_bytes(weights[:-3])
    assert "or not whole" in refused_by_run(capsys, *asked)
    (model / "model.safetensors").write_bytes(weights)
    index = model / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model.safetensors", "b": "2.safetensors"}}')
    assert "lacks 2.safetensors (1 of 2" in refused_by_run(capsys, *asked)
    index.unlink()
    for text in ("{", "[]", "{}"):
        config = (model / "config.json").read_text()
        (model / "config.json").write_text(text)
        assert "no model's configuration" in refused_by_run(capsys, *asked)
        (model / "config.json").write_text(config)
    (model / "tokenizer.json").rename(model / "elsewhere")
    assert "has no tokenizer" in refused_by_run(capsys, *asked)
    (model / "elsewhere").rename(model / "tokenizer.json")
    (model / "model.safetensors").unlink()
    assert "has no *.safetensors" in refused_by_run(capsys, *asked)


@pytest.mark.parametrize("value", ["{[]:1}", "1+", "(" * 400, "None", "[1"])
def test_a_parameter_of_any_kind_is_taken_or_refused(capsys, value):
    said = refused_by_run(capsys, "-p", f"N_PROMPTS={value}")
    assert "N_PROMPTS=" in said and "expected int" in said


def test_rows_that_were_cut_are_refused_by_name(model, capsys):
    kept = files.figures_dir("x")
    kept.mkdir(parents=True)
    whole = "set,notebook,claim,cell,part,value,low,high,n,seed,reason\n"
    for rest in ("x,02_translation,R1,", "x,02_translation,R1,m,score,a,b,c,d,,\n"):
        (kept / "02_translation.measured.csv").write_text(whole + rest)
        assert cli.main(["verdicts", "--set", "x"]) == 2
        said = capsys.readouterr().err
        assert said.count("\n") == 1 and "02_translation.measured.csv" in said, said


# Text from a model is data: it neither runs, nor hides, nor steers a screen

HOSTILE = (
    '<script>alert(1)</script><img src=x onerror="x()">|</td></table>&amp;'
    "\u202eback\u2066\x1b[2J\x00\x07\r\ufffd\ud800 $x^2$ **b** [a](javascript:x)"
)


def safe(html: str) -> None:
    assert not re.search(r"<(script|img)", html), html
    assert "&lt;script&gt;" in html and not re.search(safe_text.HIDDEN, html), html
    html.encode("utf-8")  # so that a notebook can be saved


def test_hostile_text_in_a_verdict_table(tmp_path, monkeypatch, capsys):
    row = claims.not_tested("R1", HOSTILE)
    claims.record([row], "x", "02_translation", run_dir=str(tmp_path))
    shown = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    tables.display_table("02_translation", "x", run_dir=str(tmp_path))
    safe(shown[0].data)
    assert "R1  not tested" in capsys.readouterr().out


def test_hostile_text_among_kept_rows_on_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REPRODUCE_OUT", str(tmp_path))
    row = claims.not_tested("R1", HOSTILE)
    claims.record([row], "x", "02_translation")
    assert cli.main(["verdicts", "--set", "x"]) == 0
    said = capsys.readouterr().out
    assert "<script>" in said and "\x1b" not in said and "\u202e" not in said


def test_hostile_text_in_a_figure_and_its_files(tmp_path):
    frame = pd.DataFrame({"step": [1], "token": [HOSTILE], "prob": [0.5]})
    figure = charts.mixture_bars(frame, title="Tokens")
    about = (HOSTILE, "mini", "", str(tmp_path))
    picture = figures.save(figure, frame, "09_x", *about)
    assert picture.data.startswith(b"\x89PNG")
    svg = (tmp_path / "09_x.svg").read_text(encoding="utf-8")
    assert "<script" not in svg and "onerror=" not in svg
    assert len(pd.read_csv(tmp_path / "09_x.csv")) == 1
    assert json.loads((tmp_path / "09_x.alt.json").read_text(encoding="utf-8"))["alt"]


def test_hostile_text_in_a_trace(tmp_path):
    lm = LM(TINY.model, TINY.tokenizer)
    trace = generate_concepts(lm, "w1", steps=1)
    lm.tokenizer.decode, kept = lambda _: HOSTILE, lm.tokenizer.decode
    try:
        html = trace.to_frame(top=1).to_html()
    finally:
        lm.tokenizer.decode = kept
    assert "<script" not in html and "&lt;script&gt;" in html


def test_hostile_text_cannot_steer_the_terminal(capsys, monkeypatch):
    def fail():
        raise ValueError(HOSTILE)

    monkeypatch.setattr(options, "run_request", fail)
    assert cli.main(["reproduce"]) == 2
    said = capsys.readouterr().err
    assert not re.search(safe_text.HIDDEN, said) and said.count("\n") == 1
    assert "\r" not in said and r"\x1b[2J" in said
