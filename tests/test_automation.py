"""Workflows, dev container, Binder and Colab: they name what is really here."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata

import yaml
from packaging.specifiers import SpecifierSet

from harness.files import ROOT
from harness.publish import blocks, pages
from harness.run import options

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
    rows = job["strategy"]["matrix"]["include"]
    assert {row["os"] for row in rows} == {"ubuntu-latest", "macos-latest"}
    said = "\n".join(runs(job))
    assert "make test" in said  # as in .ci/run: nbval is part of it
    assert_targets(said)
    mps = next(step for step in job["steps"] if "MPS" in step.get("name", ""))
    assert "macOS" in mps["if"] and (ROOT / mps["run"].split()[-1]).exists()


def classifiers(name):
    return metadata.metadata(name).get_all("Classifier")


def test_the_tests_run_on_the_oldest_and_the_newest_python_of_the_pins():
    """Oldest: admitted by every locked pin. Newest: named by all compiled ones."""
    lock = (ROOT / "requirements.lock").read_text().splitlines()
    about = [metadata.metadata(x.split("==")[0]) for x in lock if not x.startswith("#")]
    admits = [SpecifierSet(m["Requires-Python"] or "") for m in about]
    oldest = next(
        minor for minor in range(8, 99) if all(f"3.{minor}.99" in s for s in admits)
    )
    versions = {
        name: re.findall(r"Python :: 3\.(\d+)", "\n".join(classifiers(name)))
        for name in (
            "torch",
            "numpy",
            "scipy",
            "scikit-learn",
            "pandas",
            "transformers",
        )
    }
    newest = min(max(map(int, minors)) for minors in versions.values())
    rows = workflow("tests.yml")["jobs"]["test"]["strategy"]["matrix"]["include"]
    linux = [row["python"] for row in rows if row["os"].startswith("ubuntu")]
    assert linux == [f"3.{oldest}", f"3.{newest}"]


def test_hooks_run_what_make_lint_and_publish_run():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    assert [repo["repo"] for repo in config["repos"]] == ["local"]  # fetches nothing
    entries = {hook["id"]: hook["entry"] for hook in config["repos"][0]["hooks"]}
    assert set(entries) == {
        "ruff",
        "ruff-format",
        "import-linter",
        "mypy",
        "nbstripout",
    }
    asked = entries["nbstripout"].split('"')[1].split()
    assert {*pages.VOLATILE} == {*asked, "metadata.widgets"}  # its default
    for entry in entries.values():
        assert entry.startswith(".venv/bin/")


def test_the_paper_set_is_run_by_hand_and_its_figures_are_kept():
    flow = workflow("paper.yml")
    assert set(flow[True]) == {"workflow_dispatch"}  # YAML reads "on" as true
    job = flow["jobs"]["reproduce"]
    said = "\n".join(runs(job))
    assert_targets(said)
    assert "${{" not in said  # what is typed never becomes part of a command
    for name in ("SET", "BASE", "INSTRUCT", "DTYPE", "PARAMS"):
        exported = name in re.search("(?m)^SETTINGS := (.*)", MAKE)[1].split()
        assert (exported or f"$({name})" in MAKE) and name in job["env"]
    check = next(s["run"] for s in job["steps"] if "name that is none" in str(s))
    for given, taken in (
        ({"SET": "paper"}, True),
        ({"SET": "mine", "BASE": "a/b", "PARAMS": "N_PROMPTS=2"}, True),
        ({"SET": "a/../.."}, False),
        ({"SET": "mine", "BASE": "a/../.."}, False),
        ({"SET": "mine", "PARAMS": "A=$(shell x)"}, False),
    ):
        env = dict.fromkeys(("SET", "BASE", "INSTRUCT", "PARAMS"), "") | given
        done = subprocess.run(["bash", "-e", "-c", check], env=os.environ | env)
        assert (done.returncode == 0) == taken, given
    kept = next(s for s in job["steps"] if "upload-artifact" in s.get("uses", ""))
    assert "figures/${{ inputs.set }}/" in kept["with"]["path"]
    assert kept["if"] == "always()"


def test_a_public_model_is_run_each_week_and_its_figures_are_kept():
    flow = workflow("smollm2.yml")
    assert set(flow[True]) == {"schedule", "workflow_dispatch"}
    (when,) = flow[True]["schedule"]
    assert re.fullmatch(r"\d+ \d+ \* \* \d", when["cron"])  # a day of each week
    job = flow["jobs"]["reproduce"]
    assert job["env"]["SET"] in options.public_sets()
    assert "make reproduce" in runs(job) and "make test-real" in runs(job)
    assert_targets("\n".join(runs(job)))
    kept = next(s for s in job["steps"] if "upload-artifact" in s.get("uses", ""))
    assert "figures/smollm2/" in kept["with"]["path"] and kept["if"] == "always()"
    used = {name: workflow(name)["jobs"] for name in ("paper.yml", "smollm2.yml")}
    pins = [
        {s["uses"] for j in jobs.values() for s in j["steps"] if "uses" in s}
        for jobs in used.values()
    ]
    assert pins[0] == pins[1]  # one version of each action


def test_the_real_model_s_tests_are_no_part_of_make_test():
    assert "tests/real_weights.py" in MAKE
    assert not (ROOT / "tests" / "test_real_weights.py").exists()
    (line,) = re.findall(r"(?m)^test:.*\n(?:\t.*\n)+", MAKE)
    assert "real" not in line


def test_an_environment_without_pip_is_made_anew(tmp_path):
    for name in ("requirements.txt", "requirements.lock"):
        (tmp_path / name).touch()
    shutil.copy(ROOT / "Makefile", tmp_path)
    broken = tmp_path / ".venv" / "bin" / "python"
    broken.parent.mkdir(parents=True)
    broken.write_text("#!/bin/sh\nexit 1\n")
    broken.chmod(0o755)
    make = ["make", "-s", f"PYTHON={sys.executable}", ".venv"]
    done = subprocess.run(make, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pip = [broken, "-m", "pip", "--version"]
    assert subprocess.run(pip, capture_output=True).returncode == 0


def test_container_and_binder_install_the_same_pins():
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert_targets(container["postCreateCommand"])
    settings = container["customizations"]["vscode"]["settings"]
    assert settings["python.defaultInterpreterPath"].endswith("/.venv/bin/python")
    lines = (ROOT / "binder" / "requirements.txt").read_text().splitlines()
    assert lines[-2:] == ["-r ../requirements.txt", "-c ../requirements.lock"]
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


def test_actions_are_pinned_by_commit_and_say_which_release_that_is():
    for path in (ROOT / ".github" / "workflows").glob("*.yml"):
        for used in re.findall(r"uses: (.*)", path.read_text()):
            assert re.fullmatch(r"actions/[\w-]+@[0-9a-f]{40}  # v[\d.]+", used), used
