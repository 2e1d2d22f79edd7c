"""Committed notebooks: executed, short-celled, parameters alone, nothing stale."""

import ast
import json
import re
import statistics

import pytest

from harness import fingerprint, outputs
from harness.files import ROOT
from harness.publish import pages

BOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MEASURING = [path for path in BOOKS if not path.name.startswith("00")]
COMMON = {"SET": "mini", "BASE": "mini-gpt2", "INSTRUCT": "mini-qwen2"}
COMMON |= {"DEVICE": "auto", "DTYPE": "float32", "SEED": 0, "RUN_DIR": ""}
COMMON |= {"FIGURES_DIR": ""}
every = pytest.mark.parametrize("path", BOOKS, ids=lambda p: p.stem)
measuring = pytest.mark.parametrize("path", MEASURING, ids=lambda p: p.stem)


def code_cells(path):
    return [c for c in fingerprint.notebook_cells(path) if c["cell_type"] == "code"]


def source(cell):
    return "".join(cell["source"])


def python(text):
    """Magics are not Python."""
    return re.sub(r"(?m)^\s*[%!].*$", "", text)


@every
def test_every_code_cell_was_executed_in_order_without_error(path):
    cells = code_cells(path)
    assert [c["execution_count"] for c in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        assert not [o for o in cell["outputs"] if o["output_type"] == "error"]
        assert not [o for o in cell["outputs"] if o.get("name") == "stderr"], source(
            cell
        )


@every
def test_cells_are_short_and_define_nothing_long(path):
    # Many short cells read better than few long ones: half of the code cells have at
    # most seven lines, half of the prose blocks at most fifty-five words.
    cells = fingerprint.notebook_cells(path)
    assert len(cells) <= 46, len(cells)
    prose = [source(c).split() for c in cells if c["cell_type"] == "markdown"]
    assert statistics.median(map(len, prose)) <= 55 or len(cells) < 10
    code = [source(c).strip().splitlines() for c in code_cells(path)]
    assert statistics.median(map(len, code)) <= 7
    for cell in code_cells(path):
        lines = source(cell).splitlines()
        assert len(lines) <= 15 and max(map(len, lines), default=0) <= 88, source(cell)
        assert not source(cell).rstrip().endswith(";")
        for node in ast.walk(ast.parse(python(source(cell)))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                assert node.end_lineno - node.lineno < 3, node.name


@every
def test_prose_comes_before_code(path):
    kinds = [cell["cell_type"] for cell in fingerprint.notebook_cells(path)]
    assert kinds[0] == "markdown"
    assert kinds.count("markdown") * 2 >= kinds.count("code")


@every
def test_no_path_of_a_machine_anywhere(path):
    text = path.read_text(encoding="utf-8")
    found = re.search(r"/(work|root|home|Users|tmp|var|private)/\w+|[A-Z]:\\\\\w", text)
    assert not found, found[0]


@measuring
def test_parameters_stand_alone_as_literals(path):
    tagged = [
        c for c in code_cells(path) if "parameters" in c["metadata"].get("tags", [])
    ]
    assert len(tagged) == 1
    given = {}
    for node in ast.parse(source(tagged[0])).body:
        assert isinstance(node, ast.Assign) and len(node.targets) == 1
        given[node.targets[0].id] = ast.literal_eval(node.value)
    assert COMMON.items() <= given.items()
    for line in source(tagged[0]).splitlines():
        assert "#" in line, f"no comment: {line}"


@measuring
def test_verdicts_are_checked_by_nbval(path):
    checked = [c for c in code_cells(path) if "# NBVAL_CHECK_OUTPUT" in source(c)]
    shown = [outputs.read_metadata(o) for c in checked for o in c["outputs"]]
    assert any(about.get("recorded") and about["claims"] for about in shown)


@every
def test_volatile_metadata_is_stripped(path):
    text = path.read_bytes()
    assert pages.strip_volatile(text) == text


@measuring
def test_figures_are_complete(path):
    number = path.stem.split("_")[0]
    folder = ROOT / "figures" / "mini"
    pictures = sorted(folder.glob(f"{number}_*.png"))
    assert pictures, "no figure"
    for picture in pictures:
        about = json.loads(picture.with_suffix(".alt.json").read_text(encoding="utf-8"))
        assert about["alt"] and picture.with_suffix(".csv").stat().st_size
    assert (folder / f"{number}_provenance.json").exists()
    assert (folder / f"{path.stem}.measured.csv").exists()


@measuring
def test_published_results_rest_on_the_code_as_it_is(path):
    number = path.stem.split("_")[0]
    kept = ROOT / "figures" / "mini" / f"{number}_provenance.json"
    about = json.loads(kept.read_text(encoding="utf-8"))
    assert about["hashes"] == fingerprint.notebook_inputs(path), (
        "run make reproduce publish"
    )
