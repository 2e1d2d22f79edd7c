"""What outputs say of themselves: from the recorder to a published notebook."""

import nbformat
import papermill
import pytest
from nbformat import v4 as nb

from harness import claims, outputs
from harness.files import ROOT
from harness.publish import pages

PARAMETERS = """SET = "trial"
RUN_DIR = ""
FIGURES_DIR = ""
N_PROMPTS = 3
"""
NOTEBOOK = "02_translation"
START = f"""import sys; sys.path.insert(0, {str(ROOT)!r})
import pandas as pd
from experiments.stats import Estimate
from harness import charts
from harness.record import Recorder
recorder = Recorder("{NOTEBOOK}", globals())
frame = pd.DataFrame({{"x": ["a", "b"], "y": [1.0, 2.0]}})
figure = charts.bars(frame, "x", "y")
"""
SAVE = 'recorder.save_figure(figure, frame, "02_trial", "two bars", "R1")'
ADD = """recorder.add("R1", {"score": Estimate(0.9, 0.8, 1.0, 60, 0)}, "m")
recorder.add_not_tested("R2", "not here; not now")
recorder.show_parts("R1")
recorder.show_verdict("R1", "R2")"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """A notebook with a recorder, run by papermill; its folder."""
    folder = tmp_path_factory.mktemp("recorded")
    cells = [nb.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    sources = (START, SAVE, f"display({SAVE})", ADD, "recorder.finish()")
    book = nb.new_notebook(cells=cells + [nb.new_code_cell(s) for s in sources])
    book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    book.metadata.language_info = {"name": "python"}
    nbformat.write(book, folder / "in.ipynb")
    papermill.execute_notebook(
        str(folder / "in.ipynb"),
        str(folder / "out.ipynb"),
        kernel_name="python3",
        parameters={"RUN_DIR": str(folder / "r"), "FIGURES_DIR": str(folder / "f")},
        progress_bar=False,
    )
    return folder


def test_figures_and_verdicts_are_marked_in_an_executed_and_a_published_notebook(
    executed,
):
    kept = (executed / "out.ipynb").read_bytes()
    for text in (kept, pages.strip_volatile(kept)):
        cells = nbformat.reads(text.decode(), as_version=4).cells
        shown = [[outputs.read_metadata(o) for o in c.outputs] for c in cells[-4:]]
        assert shown[0] == shown[1] == [{"figure": "02_trial"}]
        assert shown[2] == [{}, {"claims": ["R1", "R2"], "recorded": False}]
        own = [c for c, row in claims.claims().items() if row["notebook"] == NOTEBOOK]
        assert shown[3] == [{}, {"claims": own, "recorded": True}]


def test_a_published_warning_does_not_say_where_a_package_is_installed():
    said = "/opt/me/lib/site-packages/torch/x.py:7: UserWarning: a and/or b\n"
    cell = nb.new_code_cell("1", outputs=[nb.new_output("stream", text=said)])
    text = pages.strip_volatile(nbformat.writes(nb.new_notebook(cells=[cell])).encode())
    assert b"/opt" not in text and b"site-packages/torch/x.py:7" in text
    assert b"and/or b" in text


def test_what_changes_from_run_to_run_is_not_published():
    cell = nb.new_code_cell("1", execution_count=3, metadata={"papermill": {"t": 1}})
    notebook = nb.new_notebook(cells=[cell])
    notebook.metadata = {"widgets": {"state": 1}, "papermill": 2, "language_info": {}}
    notebook.metadata.language_info = {"name": "python", "version": "3.12.1"}
    text = pages.strip_volatile(nbformat.writes(notebook).encode())
    assert b"papermill" not in text and b"widgets" not in text
    assert b"3.12" not in text and b'"execution_count": 3' in text
    assert text.endswith(b"}\n") and pages.strip_volatile(text) == text


def test_provenance_has_the_parameters_but_not_where_results_go(executed):
    text = (executed / "f" / "02_provenance.json").read_text()
    assert '"N_PROMPTS": 3' in text and "_DIR" not in text
    assert (executed / "r" / "02_translation.measured.csv").exists()


@pytest.mark.parametrize(
    "metadata",
    [{}, {"image/png": {"width": 3}}, {"x": "y"}, {outputs.METADATA_KEY: "02_trial"}],
)
def test_an_output_that_says_nothing_shows_nothing(metadata):
    assert outputs.read_metadata({"metadata": metadata}) == {}
    assert outputs.read_metadata({}) == {}
