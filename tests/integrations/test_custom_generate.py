"""The custom_generate folder, in a process where this repository cannot be imported."""

import json
import os
import subprocess
import sys

import pytest

from harness.files import ROOT
from helpers import MixtureConfig, concept_decoding, load
from helpers.mixture import sharpened
from helpers.weight_rules import cipher, gumbel, mixture_of_inputs
from integrations.custom_generate.__main__ import build

SCRIPT = """
import importlib.util, json, sys
assert importlib.util.find_spec("helpers") is None
from transformers import AutoModelForCausalLM, AutoTokenizer
folder = sys.argv[1]
model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
inputs = tokenizer("The baker feeds the", return_tensors="pt")
how = {"max_new_tokens": 12, "do_sample": False, "repetition_penalty": 1.0}
found = {"greedy": model.generate(**inputs, **how).tolist()}
ours = how | {"custom_generate": folder, "trust_remote_code": True}
found["discrete"] = model.generate(**inputs, **ours, mode="discrete").tolist()
for rule in ("sharpened", "cipher", "gumbel", "mixture_of_inputs"):
    asked = ours | {"rule": rule, "alpha": 1.0, "mixture_seed": 3}
    found[rule] = model.generate(**inputs, **asked).tolist()
for name, bad in (("no rule", {"rule": "best"}), ("untrusted", {})):
    asked = ours | bad if bad else how | {"custom_generate": folder}
    try:
        model.generate(**inputs, **asked)
    except ValueError as error:
        found[name] = str(error)
print("\\n" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What a fresh process generates with the built folder."""
    away = tmp_path_factory.mktemp("away")
    folder = build(away / "repository", ROOT / "models" / "mini-qwen2")
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env |= {"HF_MODULES_CACHE": str(away / "modules"), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", SCRIPT, str(folder)]
    done = subprocess.run(
        command,
        cwd=away,
        env=env,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_discrete_mode_is_greedy_and_rules_run_without_this_repository(found):
    assert found["discrete"] == found["greedy"]
    rules = {"sharpened": sharpened, "cipher": cipher(), "gumbel": gumbel(3)}
    rules["mixture_of_inputs"] = mixture_of_inputs(3)
    lm, config = load("mini-qwen2", device="cpu"), MixtureConfig(alpha=1.0)
    inputs = lm.tokenizer("The baker feeds the", return_tensors="pt")
    how = {"max_new_tokens": 12, "do_sample": False, "repetition_penalty": 1.0}
    for name, rule in rules.items():
        ours = concept_decoding(config, rule)
        here = lm.model.generate(**inputs, **how, custom_generate=ours)
        assert found[name] == here.tolist()
    assert found["mixture_of_inputs"] != found["sharpened"]


def test_a_wrong_rule_and_untrusted_code_are_refused(found):
    assert found["no rule"].startswith("rule must be one of sharpened, one_hot, cipher")
    assert "trust_remote_code=True" in found["untrusted"]


def test_a_folder_in_use_and_one_without_a_model_are_refused(tmp_path):
    (tmp_path / "kept.txt").write_text("here")
    with pytest.raises(ValueError, match="is not empty"):
        build(tmp_path, ROOT / "models" / "mini-qwen2")
    with pytest.raises(ValueError, match="holds no config.json"):
        build(tmp_path / "new", tmp_path)
