"""The task for lm-evaluation-harness: its file, its scoring, its settings, one run."""

import ast
import csv
import importlib.util
import subprocess
import sys

import pandas as pd
import pytest
import yaml

from experiments.prompts import suites
from experiments.scoring import is_right
from experiments.weight_rules.questions import questions
from harness.files import ROOT
from helpers.weight_rules import RULES as KNOWN
from integrations.lm_eval import __main__ as by_rule
from integrations.lm_eval import scoring

FOLDER = ROOT / "integrations" / "lm_eval"


@pytest.fixture(scope="module")
def docs():
    with (FOLDER / "meanings.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_questions_are_those_of_the_repository(docs):
    items = questions("smollm2", len(docs))
    assert [doc["question"] for doc in docs] == [item.prompt for item in items]
    assert [doc["accepted"].split("|") for doc in docs] == [
        list(item.accepted) for item in items
    ]


def test_scoring_is_that_of_the_repository(docs):
    asked = suites("smollm2")["meanings"]
    for answer in ("A small Animal, kept as a pet.", "an animality", "", "milk-food"):
        for item in asked:
            doc = {"accepted": "|".join(item.accepted)}
            found = scoring.process_results(doc, [answer])
            assert found == {"right": float(is_right(answer, item))}


def test_the_task_names_what_is_there(docs):
    text = (FOLDER / "concept_meanings.yaml").read_text(encoding="utf-8")
    task = yaml.safe_load(text.replace("!function ", ""))
    assert task["task"] == by_rule.TASK and task["output_type"] == "generate_until"
    assert (ROOT / task["dataset_kwargs"]["data_files"]["test"]).is_file()
    name, function = task["process_results"].split(".")
    assert name == "scoring" and callable(getattr(scoring, function))
    scored = scoring.process_results(docs[0], ["x"])
    assert set(scored) == {metric["metric"] for metric in task["metric_list"]}


def test_every_setting_is_one_that_the_folder_takes():
    code = ROOT / "integrations" / "custom_generate" / "generate.py"
    *_, function = ast.parse(code.read_text(encoding="utf-8")).body
    taken = {argument.arg for argument in function.args.args}
    for settings in by_rule.RULES.values():
        words = by_rule.command("m", ROOT, settings, 5, ROOT)
        given = dict(pair.split("=") for pair in settings.split(",") if pair)
        assert set(given) <= taken and given.get("rule", KNOWN[0]) in KNOWN
        assert ("trust_remote_code=True" in " ".join(words)) == bool(settings)
        assert by_rule.TASK in words


def test_a_path_with_a_space_stays_one_word(tmp_path):
    words = by_rule.command("a model", tmp_path / "a b", "rule=gumbel", 5, tmp_path)
    assert "pretrained=a model,dtype=float32" in words
    assert [word for word in words if "a b,trust_remote_code" in word]


def test_scores_draw_words_and_pair_questions():
    words, n = [f"word {i // 4}" for i in range(80)], range(80)
    table = {"question": [f"q{i}" for i in n], "word": words}
    plain = pd.DataFrame(table | {"right": [float(i // 4 % 2) for i in n]})
    same, none = by_rule.scores(plain, plain), plain.assign(right=0.0)
    assert (same["right"], same["n"]) == (0.5, 80)
    assert same["over_generate"] == same["over_low"] == same["over_high"] == 0
    assert same["high"] - same["low"] > 0.35  # of 20 words; of 80 answers: .22
    assert by_rule.scores(none, plain)["over_generate"] == -0.5
    with pytest.raises(ValueError, match="same questions"):
        by_rule.scores(plain[::-1], plain)


def test_lm_eval_runs_every_rule(tmp_path):
    if importlib.util.find_spec("lm_eval") is None:
        pytest.skip("lm-eval is not installed")
    out, model = tmp_path / "out.csv", ROOT / "models" / "mini-gpt2"
    command = [sys.executable, "-m", "integrations.lm_eval", model, out, "--limit", "4"]
    subprocess.run([*map(str, command)], cwd=ROOT, check=True, stdin=subprocess.DEVNULL)
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["rule"] for row in rows] == list(by_rule.RULES)
    assert {row["n"] for row in rows} == {"4"}
    assert rows[0]["right"] == rows[1]["right"]  # generate's and discrete
