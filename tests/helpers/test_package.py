"""The wheel: it holds the library and both mini models, and runs from any folder."""

import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import version

import pytest
from packaging.requirements import Requirement

from harness.files import ROOT
from tests.tiny import MINI

README_LINES = """
from helpers import concept_decoding, continue_from, generate_concepts, load
lm = load("mini-gpt2", device="cpu")
trace = generate_concepts(lm, ["The capital of France is"], steps=2)
print(trace.to_frame().token[0], len(continue_from(lm, trace.vectors[:, :1])))
inputs = lm.tokenizer("The capital of France is", return_tensors="pt")
ids = lm.model.generate(**inputs, custom_generate=concept_decoding(), max_new_tokens=2)
print(lm.tokenizer.decode(ids[0]), len(load("mini-qwen2", device="cpu").eos_ids))
import helpers; print(helpers.__file__)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built offline by the pinned backend, outside the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(folder.glob("concept_tokens-*.whl"))


def test_the_wheel_holds_the_library_and_the_mini_models_only(wheel):
    with zipfile.ZipFile(wheel) as opened:
        found = {n for n in opened.namelist() if ".dist-info/" not in n}
    modules = (ROOT / "helpers").glob("*.py")
    expected = {f"helpers/{path.name}" for path in modules} | {"helpers/py.typed"}
    for name in MINI:
        files = (p for p in (ROOT / "models" / name).iterdir() if p.is_file())
        expected |= {f"helpers/mini_models/{name}/{path.name}" for path in files}
    assert found == expected


def test_what_it_requires_is_what_is_pinned_here(wheel):
    with zipfile.ZipFile(wheel) as opened:
        name = next(n for n in opened.namelist() if n.endswith("/METADATA"))
        metadata = opened.read(name).decode()
    lines = re.findall(r"(?m)^Requires-Dist: (.+)$", metadata)
    needs = [Requirement(line) for line in lines]
    required = {r.name: r.specifier for r in needs if r.marker is None}  # no extras
    assert {"torch", "transformers", "safetensors", "pandas"} <= set(required)
    for name, specifier in required.items():
        assert version(name) in specifier, (name, specifier)


def test_it_runs_from_a_folder_that_is_not_the_repository(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(tmp_path / "installed")
    env = os.environ | {"PYTHONPATH": str(tmp_path / "installed")}
    done = subprocess.run(
        [sys.executable, "-c", README_LINES],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    first, text, place = done.stdout.splitlines()
    assert first.split() == ["Paris", "1"] and "is Paris" in text
    assert place == str(tmp_path / "installed" / "helpers" / "__init__.py")
