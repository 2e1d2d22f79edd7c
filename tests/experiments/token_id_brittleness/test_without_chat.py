"""Notebook 03 without a chat model: it ends early, and says what was not tested."""

import pandas as pd
import papermill

from harness.files import ROOT


def test_the_notebook_ends_early_and_well_without_a_chat_model(tmp_path):
    given = {"SET": "base-only", "INSTRUCT": "", "N_SEARCH": 40}
    given |= {"RUN_DIR": str(tmp_path), "FIGURES_DIR": str(tmp_path)}
    executed = papermill.execute_notebook(
        str(ROOT / "notebooks" / "03_token_id_brittleness.ipynb"),
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
    counts = [c.execution_count for c in executed.cells if c.cell_type == "code"]
    ran = [count for count in counts if count is not None]
    assert ran == list(range(1, len(ran) + 1)) and counts[len(ran) :] != []
    outputs = [o for c in executed.cells for o in c.get("outputs", [])]
    assert not [o for o in outputs if o.get("name") == "stderr"]
