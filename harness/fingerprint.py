"""What a notebook's results depend on, as hashes: sources, helpers, claims, models.

    cell_sources     the cells of a notebook, without outputs
    code_files       every source file whose change must rerun it
    shared_tables    the kept tables that it reads
    notebook_inputs  every hash that must be the same for a result to be the same
    model_digest     a model folder's configuration, tokenizer and weights
    versions         of Python and of the packages that compute

Standard library only: run.py asks before it imports anything heavy.
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


def cell_sources(notebook: Path, kind: str | None = None) -> list[str]:
    """Each cell's source; `kind` "code" or "markdown" keeps those only."""
    kept = (c for c in notebook_cells(notebook) if kind in (None, c["cell_type"]))
    return ["".join(c["source"]) for c in kept]


def code_files(notebook: Path) -> list[Path]:
    """Every source file whose change must rerun a notebook.

    Its own folder experiments/<name without the number>/, and the shared rooms: the
    library, what all experiments share, the corpus, and what records and draws.
    """
    own = ROOT / "experiments" / notebook.stem.partition("_")[2]
    folders = (ROOT / "helpers", ROOT / "experiments", own, ROOT / "harness")
    corpus = [ROOT / "models" / f"{name}.py" for name in CORPUS]
    return sorted({p for folder in folders for p in folder.glob("*.py")} | {*corpus})


def claim_rows(notebook: str) -> str:
    """The rows of claims.csv and findings.csv that a notebook answers, as text."""
    claims, findings = (
        list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        for path in (CLAIMS, FINDINGS)
    )
    asked = [row for row in claims if row["notebook"] == notebook]
    ids = {row["id"] for row in asked}
    return repr(asked + [row for row in findings if row["id"] in ids])


def shared_tables(notebook: Path) -> list[Path]:
    """The tables of figures/ that belong to no set and that a notebook names."""
    code = "\n".join(cell_sources(notebook, "code"))
    return [p for p in sorted((ROOT / "figures").glob("*.csv")) if p.name in code]


def notebook_inputs(notebook: Path) -> dict[str, str]:
    """Hashes of a notebook's cells, the code behind it, the claims it answers and the
    tables it reads."""
    return {
        "notebook": digest(*(f"{text}\0" for text in cell_sources(notebook))),
        "code": digest(*code_files(notebook)),
        "claims": digest(claim_rows(notebook.stem)),
        "data": digest(*shared_tables(notebook)),
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
