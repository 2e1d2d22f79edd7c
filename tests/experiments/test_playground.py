"""The playground: executed as a notebook, its widgets driven, its text escaped."""

import re

import nbformat
import pytest
from nbclient import NotebookClient

from experiments.playground import Look, Playground, Step, look, page
from harness.files import ROOT
from helpers import MixtureConfig, load
from helpers.weight_rules import RULES

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def lms():
    return {name: load(name, device="cpu") for name in ("mini-gpt2", "mini-qwen2")}


@pytest.fixture
def panel(lms):
    return Playground(lms, PROMPT)


def rows(panel):
    return panel.page.value.count("<tr>") - 1


def test_a_look_is_what_the_loop_does(lms):
    seen = look(lms["mini-gpt2"], PROMPT, MixtureConfig(), 3)
    (token, weight), *_ = seen.steps[0].tokens
    assert token == seen.steps[0].nearest == " Paris" and 0.5 < weight < 1
    assert (
        seen.chain.startswith(" Paris") and len(seen.steps) == 3 and seen.continuation
    )
    assert "the capital of France" in seen.steps[0].read
    discrete = look(lms["mini-gpt2"], PROMPT, MixtureConfig(mode="discrete"), 3)
    assert not any(step.mixed for step in discrete.steps)


def test_every_widget_redraws_the_page(panel):
    seen = {panel.page.value}
    moves = {
        "prompt": "The baker feeds the",
        "steps": 6,
        "top_k": 2,
        "temperature": 2.0,
        "alpha": 1.0,
        "way": "direct",
        "rule": "mean_of_draws",
        "norm": "none",
        "mode": "discrete",
        "model": "mini-qwen2",
    }
    for name, value in moves.items():
        getattr(panel, name).value = value
        if name == "norm":  # clipping changes a vector by less than the page shows
            continue
        assert panel.page.value not in seen, name
        seen.add(panel.page.value)
    assert rows(panel) == 6
    assert panel.gate_entropy.disabled
    panel.mode.value = "gated"
    assert not panel.gate_entropy.disabled
    panel.gate_entropy.value = 0.0
    mixed = panel.page.value
    panel.gate_entropy.value = 5.0
    assert panel.page.value != mixed and panel.page.value.count("2px solid") == 6


def test_every_rule_is_offered_and_read_back(panel):
    assert panel.rule.options == RULES
    for rule in RULES:
        panel.rule.value = rule
        assert rows(panel) == 4 and "read back as" in panel.page.value, rule


def test_top_k_one_is_one_token_a_step(panel):
    panel.top_k.value = 1
    assert re.findall(r">(\d+)% ", panel.page.value) == ["100"] * 4


@pytest.mark.parametrize("prompt", ["", "word " * 400])
def test_what_is_not_possible_is_said_in_a_line(panel, prompt):
    panel.prompt.value = prompt
    assert panel.page.value.startswith("<p><b>Not possible:</b>")
    panel.prompt.value = PROMPT
    assert rows(panel) == 4


def test_a_frame_that_needs_a_template_says_so(panel):
    panel.way.value = "selfie"
    assert "needs a chat template" in panel.page.value
    panel.model.value = "mini-qwen2"
    assert "needs a chat template" not in panel.page.value


def test_model_text_is_data():
    evil = "<script>alert('x')</script>\u202e\x1b[0m'\""
    step = Step([(evil, 0.9), (evil, 0.1)], 0.5, evil, True, evil)
    html = page(Look([step], evil, evil), evil)
    assert "<script" not in html and "\u202e" not in html and "\x1b" not in html
    assert "&lt;script&gt;" in html
    title = re.search(r"title='([^']*)'", html)[1]
    assert "&#x27;" in html and "<" not in title


def test_the_notebook_runs_and_its_panel_moves():
    book = nbformat.read(ROOT / "notebooks" / "00_playground.ipynb", as_version=4)
    drive = "panel.top_k.value = 1\npanel.steps.value = 7\nprint(panel.page.value)"
    book.cells.append(nbformat.v4.new_code_cell(drive))
    where = {"metadata": {"path": str(ROOT / "notebooks")}}
    client = NotebookClient(book, timeout=120, kernel_name="python3", resources=where)
    client.execute()
    *_, before, last = (c for c in book.cells if c.cell_type == "code")
    assert "application/vnd.jupyter.widget-view+json" in before.outputs[0].data
    assert last.outputs[0].text.count("<tr>") - 1 == 7
