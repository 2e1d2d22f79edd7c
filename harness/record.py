"""What a notebook keeps: one Recorder a notebook.

    recorder = Recorder("01_generation", globals())   first thing after the parameters
    lms = recorder.load_models()                      BASE and INSTRUCT, by folder name
    recorder.add("G1", {"mismatch": estimate}, cell)  measured parts of a claim
    recorder.add_not_tested("R2", reason, cell=cell)  or why there are none
    recorder.save_figure(figure, frame, "01_norms", alt, "G3 G4")
    recorder.show_parts("G1")                         its rows so far, as a table
    recorder.show_verdict("G1", "G2")                 verdict and finding, in words
    recorder.finish()                                 write all, show the verdicts

What is displayed says in its output's metadata which figure or which claims it shows
(harness/outputs.py), so that nothing has to read a notebook's source to find out. A
picture keeps that as a cell's last value and with display(...) alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from harness import claims, figures, tables

if TYPE_CHECKING:
    import pandas as pd
    from IPython.display import Image

    from helpers.models import LM


class Recorder:
    """Collects a notebook's measured rows and figures under its own parameters.

    notebook: its file name without the ending. namespace: the notebook's globals(), of
    which the names in capitals are taken as its parameters; so make it right after the
    parameters cell.
    """

    def __init__(self, notebook: str, namespace: Mapping[str, object]):
        self.notebook = notebook
        literals = (str, int, float)  # what a parameters cell holds; no constants else
        self.parameters = {
            k: v for k, v in namespace.items() if k.isupper() and type(v) in literals
        }
        self.set_name = str(self.parameters["SET"])
        self.run_dir = str(self.parameters.get("RUN_DIR", ""))
        self.figures_dir = str(self.parameters.get("FIGURES_DIR", ""))
        self.rows: list[dict] = []
        self.models: dict[str, LM] = {}

    def load_models(self) -> dict[str, LM]:
        """Load BASE and, unless it is "", INSTRUCT -> model by its folder's name.

        One model in both roles is loaded once, and is one entry.
        """
        from helpers.models import load

        asked = {role: self.parameters.get(role) for role in ("BASE", "INSTRUCT")}
        how = self.parameters["DEVICE"], self.parameters["DTYPE"]
        loaded = {
            name: load(name, *how) for name in dict.fromkeys(asked.values()) if name
        }
        self.models = {r.lower(): loaded[name] for r, name in asked.items() if name}
        return {Path(name).name: lm for name, lm in loaded.items()}

    def add(self, claim: str, estimates: Mapping[str, object], cell: str = "") -> None:
        """Record parts of a claim: name -> Estimate. cell: the model, frame, ... ."""
        for part, estimate in estimates.items():
            self.rows.append(claims.measured(claim, part, estimate, cell=cell))

    def add_not_tested(
        self, claim: str, reason: str, part: str = "", cell: str = ""
    ) -> None:
        """Record why a part, a cell (no part) or a whole claim was not tested."""
        self.rows.append(claims.not_tested(claim, reason, part, cell))

    def save_figure(
        self, figure, frame: pd.DataFrame, name: str, alt: str, claim_ids: str = ""
    ) -> Image:
        """Save NN_name .png .svg .csv .alt.json; return the picture for display."""
        return figures.save(
            figure, frame, name, alt, self.set_name, claim_ids, self.figures_dir
        )

    def show_parts(self, claim: str) -> None:
        """Display the rows recorded for a claim."""
        import pandas as pd
        from IPython.display import display

        frame = pd.DataFrame(self.rows)
        display(frame[frame.claim == claim].set_index("claim").loc[:, "cell":"n"])

    def show_verdict(self, *claim_ids: str) -> None:
        """Display verdict and finding of claims, from the rows recorded so far."""
        tables.display_verdict(self.rows, self.set_name, *claim_ids)

    def finish(self) -> None:
        """Write measured rows and provenance; print and display the verdicts."""
        claims.write_rows(self.rows, self.set_name, self.notebook, self.run_dir)
        figures.provenance(
            self.notebook, self.set_name, self.parameters, self.models, self.figures_dir
        )
        tables.display_table(self.notebook, self.set_name, self.run_dir)
