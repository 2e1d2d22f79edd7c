"""A user's mistakes at the command, and text from a model that would steer a page.

A mistake ends in one line that names the value, before work starts. Text from a model
neither runs on a page, nor hides, nor steers a terminal.
"""

import json
import os
import re
import shutil
import subprocess
import sys

import IPython.display
import nbformat
import pandas as pd
import pytest

from harness import charts, claims, figures, files, safe_text, tables
from harness.run import cli, options
from helpers import checkpoints
from tests.tiny import tiny_model, tiny_tokenizer


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
    (["SET=bench"], "SET='bench': figures/bench/ is kept by make bench"),
    (["ONLY=01 99"], "no notebook '99'"),
    (["PARAMS=SEED=1 A=2"], "PARAMS='SEED=1': SEED has a setting of its own"),
    (["PARAMS=$(shell touch HERE)"], "PARAMS='$(shell': expected NAME=value"),
    (["PARAMS=\"; touch HERE; \""], "PARAMS='\";': expected NAME=value"),
    (["ONLY=`touch HERE`"], "no notebook 'HERE`'"),
    (["SET=$(shell touch HERE)"], "SET='$(shell touch HERE)': use letters"),
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
    assert not (files.ROOT / "HERE").exists()


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
    free = checkpoints.count_parameters(model) * 4  # a fifth more is needed
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


LOOP = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    "template, says",
    [
        ("{{ messages[0].content }}", ""),
        ("{{ 'x' * 10**6 }}", "it makes 1000000 characters of one word"),
        ("{{ 'x' * 10**11 }}", "the chat template fails: MemoryError"),
        (LOOP, "it does not end in 3 s"),
        ("{{ raise_exception('no') }}", "the chat template fails: no"),
        ("{% if %}", "the chat template fails: "),
    ],
    ids=["fit", "floods", "memory", "loops", "raises", "syntax"],
)
def test_a_chat_template_that_is_unfit_is_refused(model, monkeypatch, template, says):
    (model / "chat_template.jinja").write_text(template)
    monkeypatch.setattr(options, "RENDER_SECONDS", 3 if template is LOOP else 20)
    if not says:
        return options.check_template(str(model))
    with pytest.raises(ValueError) as refused:
        options.check_template(str(model))
    said = str(refused.value)
    assert "its chat template is unfit: " in said and says in said and "\n" not in said


def test_a_folder_at_the_top_is_no_second_model(model, monkeypatch):
    monkeypatch.setattr(options, "_has_template", lambda _: True)
    common = {"BASE": str(model), "INSTRUCT": "", "DEVICE": "cpu", "DTYPE": "float32"}
    options.check_models(common, ["float32"])
    monkeypatch.setattr(checkpoints, "find_checkpoint", lambda name: (model, None))
    options.check_models(common | {"BASE": "/"}, ["float32"])  # both names would be ""


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
    claims.write_rows([row], "x", "02_translation", run_dir=str(tmp_path))
    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda x, **_: shown.append(x))
    tables.display_table("02_translation", "x", run_dir=str(tmp_path))
    safe(shown[0].data)
    assert "R1  not tested" in capsys.readouterr().out


def test_hostile_text_among_kept_rows_on_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("REPRODUCE_OUT", str(tmp_path))
    row = claims.not_tested("R1", HOSTILE)
    claims.write_rows([row], "x", "02_translation")
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


def test_no_cell_of_a_csv_is_a_formula():
    cells = ["=1+1", "@SUM(A1)", "+cmd|x", "-2+3", "\t=1", "-0.5", "+1e-3", "=", "- a"]
    frame = safe_text.plain_cells(pd.DataFrame({"token": [*cells, 0.5, None]}))
    assert [str(c).startswith("'") for c in frame["token"]] == [True] * 5 + [False] * 6


def test_hostile_text_in_an_executed_notebook(tmp_path):
    output = nbformat.v4.new_output
    book = nbformat.v4.new_notebook()
    book.cells = [nbformat.v4.new_code_cell("1")]
    book.cells[0].outputs = [
        output("stream", text="a\x1b[2Jb\u202ec"),
        output("display_data", data={"text/html": "<b>\u202e</b>", "image/png": "AA"}),
    ]
    nbformat.write(book, tmp_path / "x.ipynb")
    safe_text.escape_outputs(tmp_path / "x.ipynb")
    stream, shown = nbformat.read(tmp_path / "x.ipynb", 4).cells[0].outputs
    assert stream.text == r"a\x1b[2Jb\u202ec"
    assert shown.data == {"text/html": r"<b>\u202e</b>", "image/png": "AA"}


def test_hostile_text_cannot_steer_the_terminal(capsys, monkeypatch):
    def fail(**_):
        raise ValueError(HOSTILE)

    monkeypatch.setattr(options, "run_request", fail)
    assert cli.main(["reproduce"]) == 2
    said = capsys.readouterr().err
    assert not re.search(safe_text.HIDDEN, said) and said.count("\n") == 1
    assert "\r" not in said and r"\x1b[2J" in said
