"""Workflows, dev container, Binder and Colab: they name what is really here."""

import json
import re

import yaml

from harness.files import ROOT
from harness.publish import blocks

MAKE = (ROOT / "Makefile").read_text()


def workflow(name):
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())


def runs(job):
    return [step["run"] for step in job["steps"] if "run" in step]


def assert_targets(text):
    called = re.findall(r"\bmake ([\w.-]+)", text)
    assert called
    for target in called:
        assert re.search(rf"(?m)^{re.escape(target)}:", MAKE), target


def test_the_tests_run_on_linux_and_macos_with_the_mps_check():
    job = workflow("tests.yml")["jobs"]["test"]
    systems = [row["os"] for row in job["strategy"]["matrix"]["include"]]
    assert systems == ["ubuntu-latest", "macos-latest"]
    said = "\n".join(runs(job))
    assert "make test" in said  # as in .ci/run: nbval is part of it
    assert_targets(said)
    mps = next(step for step in job["steps"] if "MPS" in step.get("name", ""))
    assert "macOS" in mps["if"] and (ROOT / mps["run"].split()[-1]).exists()


def test_the_paper_set_is_run_by_hand_and_its_figures_are_kept():
    flow = workflow("paper.yml")
    assert set(flow[True]) == {"workflow_dispatch"}  # YAML reads "on" as true
    job = flow["jobs"]["reproduce"]
    said = "\n".join(runs(job))
    assert_targets(said)
    assert "${{" not in said  # what is typed never becomes part of a command
    for name in ("SET", "BASE", "INSTRUCT", "DTYPE", "PARAMS"):
        exported = name in re.search("(?m)^export (.*)", MAKE)[1].split()
        assert (exported or f"$({name})" in MAKE) and name in job["env"]
    kept = next(s for s in job["steps"] if "upload-artifact" in s.get("uses", ""))
    assert "figures/${{ inputs.set }}/" in kept["with"]["path"]
    assert kept["if"] == "always()"


def test_container_and_binder_install_the_same_pins():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert_targets(container["postCreateCommand"])
    settings = container["customizations"]["vscode"]["settings"]
    assert settings["python.defaultInterpreterPath"].endswith("/.venv/bin/python")
    lines = (ROOT / "binder" / "requirements.txt").read_text().splitlines()
    assert "-r ../requirements.txt" in lines and (ROOT / "requirements.txt").exists()
    python = (ROOT / "binder" / "runtime.txt").read_text().strip()
    assert python == f"python-{container['image'].split(':')[1]}"


def test_badges_appear_once_the_repository_is_named():
    assert "repository-code" in blocks.badges(citation="title: x\n")
    made = blocks.badges(
        citation="repository-code: https://github.com/some-one/concept.tokens\n"
    )
    assert made.count("some-one/concept.tokens/") == 2 and made.count("[![") == 2
    notebooks = re.findall(r"(?:HEAD|tree)/(\S+?\.ipynb)\)", made)
    assert len(notebooks) == 2 and all((ROOT / name).exists() for name in notebooks)
    colab = (ROOT / "binder" / "colab.ipynb").read_text(encoding="utf-8")
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    named = re.search(r"(?m)^repository-code: (\S+)", cited)
    assert f'REPOSITORY = \\"{named[1] if named else ""}\\"' in colab


def test_colab_asks_for_what_is_in_requirements():
    book = json.loads((ROOT / "binder" / "colab.ipynb").read_text(encoding="utf-8"))
    code = "\n".join(
        "".join(c["source"]) for c in book["cells"] if c["cell_type"] == "code"
    )
    pins = (ROOT / "requirements.txt").read_text()
    pattern = re.search(r"grep -E '\^\((.*?)\)=='", code)[1]
    for package in pattern.split("|"):
        assert re.search(rf"(?m)^{package}==", pins), package
    for notebook in re.findall(r"%run (\S+)", code):
        assert (ROOT / "notebooks" / notebook).exists(), notebook
