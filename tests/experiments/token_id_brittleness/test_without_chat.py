"""Notebook 03 without a chat model: it ends early, and says what was not tested."""

import io
import json

import pandas as pd
import papermill
import pytest
from IPython.core.interactiveshell import InteractiveShell

from harness import cells as notebook_cells
from harness.files import ROOT

NOTEBOOK = ROOT / "notebooks" / "03_token_id_brittleness.ipynb"


def test_the_notebook_ends_early_and_well_without_a_chat_model(tmp_path):
    given = {"SET": "base-only", "INSTRUCT": "", "N_PROMPTS": 20, "N_SEARCH": 40}
    given |= {"N_EDITED": 10, "N_PLANTED": 40, "N_SETTINGS": 20}
    given |= {"RUN_DIR": str(tmp_path), "FIGURES_DIR": str(tmp_path)}
    executed = papermill.execute_notebook(
        str(NOTEBOOK),
        str(tmp_path / "executed.ipynb"),
        parameters=given,
        kernel_name="python3",
        cwd=str(ROOT / "notebooks"),
        progress_bar=False,
    )
    rows = pd.read_csv(tmp_path / "03_token_id_brittleness.measured.csv")
    not_tested = rows[rows["reason"].notna()]
    assert not_tested["claim"].tolist() == ["I1", "I3", "I4"]
    assert set(rows["claim"]) == {"I0", "I1", "I2", "I3", "I4", "I5"}
    assert (tmp_path / "03_provenance.json").exists()
    code = [c for c in executed.cells if c.cell_type == "code"]
    counts = [c.execution_count for c in code]
    assert counts == list(range(1, len(code) + 1))  # all ran, the last ones empty
    end = next(i for i, c in enumerate(code) if "skip_until" in c.source)
    assert not any(c["outputs"] for c in code[end:-1]) and code[-1]["outputs"]
    kinds = {o.get("name", o["output_type"]) for c in code for o in c["outputs"]}
    assert not kinds & {"stderr", "error"}


@pytest.mark.parametrize("last", ['BASE = ""\nINSTRUCT = "chat"', "print(2)\n"])
def test_cells_are_skipped_until_one_that_is_waited_for(monkeypatch, last):
    shell = InteractiveShell()
    monkeypatch.setattr(notebook_cells, "get_ipython", lambda: shell)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    notebook_cells.skip_until("INSTRUCT =", "print(2")
    for cell in ("seen = 1", "print(INSTRUCT)", "%no_such_magic", ""):
        assert shell.run_cell(cell).success
    assert "seen" not in shell.user_ns
    assert shell.run_cell(last).success
    assert shell.run_cell("seen = 3").success
    assert shell.user_ns["seen"] == 3
    shell.history_manager.end_session()


def test_outside_of_ipython_nothing_is_skipped(monkeypatch):
    monkeypatch.setattr(notebook_cells, "get_ipython", lambda: None)
    notebook_cells.skip_until("INSTRUCT =")


def test_the_notebook_that_ends_early_has_the_parameter_it_waits_for():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    tagged = [c for c in cells if "parameters" in c["metadata"].get("tags", [])]
    assert any(line.startswith("INSTRUCT =") for line in tagged[0]["source"])
    assert any(line.startswith("recorder.finish") for line in cells[-1]["source"])
