"""What a notebook's results depend on, as hashes: sources, helpers, claims, models.

    notebook_cells   the cells of a notebook
    code_files       every source file whose change must rerun it
    shared_tables    the tables of figures/ that belong to no set
    notebook_inputs  every hash that must be the same for a result to be the same
    model_digest     a model folder's configuration, tokenizer and weights
    versions         of Python and of the packages that compute

Standard library only: the runner asks before it imports anything heavy.
"""

import csv
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.files import ROOT, digest

NOTEBOOKS = ROOT / "notebooks"
CLAIMS, FINDINGS = ROOT / "claims.csv", ROOT / "findings.csv"
CORPUS = ("facts", "world", "english", "chat", "corpus")  # of models/
COMPUTE = ("torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn")
COMPUTE += ("pandas", "matplotlib")


def notebook_cells(notebook: Path) -> list[dict]:
    """The cells of a notebook file; ValueError if it is not one."""
    try:
        found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        if all(cell["cell_type"] and "source" in cell for cell in found):
            return found
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{notebook.name} is not a notebook: restore it")


def code_files(notebook: Path) -> list[Path]:
    """List every source file whose change must rerun a notebook.

    Its own folder experiments/<name without the number>/, and the shared rooms: the
    library, what all experiments share, the corpus, and what records and draws.
    """
    own = ROOT / "experiments" / notebook.stem.partition("_")[2]
    folders = (ROOT / "helpers", ROOT / "experiments", own, ROOT / "harness")
    corpus = [ROOT / "models" / f"{name}.py" for name in CORPUS]
    asked = (ROOT / "experiments").glob("*.csv")  # prompts
    code = {p for folder in folders for p in folder.glob("*.py")}
    return sorted(code | {*corpus, *asked})


def claim_rows(notebook: str) -> str:
    """The rows of claims.csv and findings.csv that a notebook answers, as text."""
    claims, findings = (
        list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        for path in (CLAIMS, FINDINGS)
    )
    asked = [row for row in claims if row["notebook"] == notebook]
    ids = {row["id"] for row in asked}
    return repr(asked + [row for row in findings if row["id"] in ids])


def shared_tables() -> list[Path]:
    """The tables of figures/ that belong to no set."""
    return sorted((ROOT / "figures").glob("*.csv"))


def notebook_inputs(notebook: Path) -> dict[str, str]:
    """Hash a notebook's cells, its code, the claims it answers and shared tables."""
    sources = ["".join(cell["source"]) for cell in notebook_cells(notebook)]
    return {
        "notebook": digest(*(f"{source}\0" for source in sources)),
        "code": digest(*code_files(notebook)),
        "claims": digest(claim_rows(notebook.stem)),
        "data": digest(*shared_tables()),
    }


def model_digest(folder: Path) -> str:
    """Hash of a model folder: names and contents of its files, in order."""
    kinds = (".json", ".safetensors", ".txt", ".model", ".jinja")
    files = sorted(p for p in Path(folder).iterdir() if p.suffix in kinds)
    return digest(*(item for path in files for item in (path.name, path)))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute, without build tags."""
    out = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in COMPUTE:
        try:
            out[package] = version(package).split("+")[0]
        except PackageNotFoundError:
            out[package] = "absent"
    return out
