"""What a notebook's results depend on, as hashes: sources, helpers, claims, models.

    sources          the cells of a notebook, without outputs
    modules          the helpers modules it imports, and those they import
    data             the kept tables that it reads
    notebook_inputs  every hash that must be the same for a result to be the same
    model_digest     a model folder's configuration, tokenizer and weights
    versions         of Python and of the packages that compute

Standard library only: run.py asks before it imports anything heavy.
"""

import ast
import csv
import json
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from helpers import _HOME
from helpers.files import ROOT, digest

NOTEBOOKS = ROOT / "notebooks"
CLAIMS, FINDINGS = ROOT / "claims.csv", ROOT / "findings.csv"
HELPERS = ROOT / "helpers"
COMPUTE = ("torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn")
COMPUTE += ("pandas", "matplotlib")


def cells(notebook: Path) -> list[dict]:
    """The cells of a notebook file; ValueError if it is not one."""
    try:
        found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        if all(cell["cell_type"] and "source" in cell for cell in found):
            return found
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{notebook.name} is not a notebook: restore it")


def sources(notebook: Path, kind: str | None = None) -> list[str]:
    """Each cell's source; `kind` "code" or "markdown" keeps those only."""
    kept = (c for c in cells(notebook) if kind in (None, c["cell_type"]))
    return ["".join(c["source"]) for c in kept]


def modules(notebook: Path) -> list[Path]:
    """The files of helpers/ and models/ that a notebook imports, however far away."""
    code = "\n".join(
        re.sub(r"(?m)^\s*[%!].*$", "", s) for s in sources(notebook, "code")
    )
    found: set[Path] = set()
    waiting = list(_imported(code))
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported(path.read_text(encoding="utf-8"), path)
    return sorted(found)


def _imported(code: str, home: Path | None = None) -> set[Path]:
    """Files of this repository named by the import statements of `code`."""
    names = set()
    try:
        tree = ast.parse(code)
    except SyntaxError:
        return set()  # running it will say so
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level and home:
                base = ".".join(filter(None, [home.parent.name, base]))
            names |= {base} | {f"{base}.{alias.name}" for alias in node.names}
    found = set()
    for name in names:
        package, *rest = name.split(".")
        if package not in ("helpers", "models"):
            continue
        folder = ROOT / package
        module = folder / f"{rest[0]}.py" if rest else folder / "__init__.py"
        if module.exists():
            found.add(module)
        elif package == "helpers":  # a public name: its module is looked up on use
            found |= {folder / f"{m}.py" for m in _HOME if rest[0] in _HOME[m]}
    return {path for path in found if path.exists()}


def claim_rows(notebook: str) -> str:
    """The rows of claims.csv and findings.csv that a notebook answers, as text."""
    claims, findings = (
        list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        for path in (CLAIMS, FINDINGS)
    )
    asked = [row for row in claims if row["notebook"] == notebook]
    ids = {row["id"] for row in asked}
    return repr(asked + [row for row in findings if row["id"] in ids])


def data(notebook: Path) -> list[Path]:
    """The tables of figures/ that belong to no set and that a notebook names."""
    code = "\n".join(sources(notebook, "code"))
    return [p for p in sorted((ROOT / "figures").glob("*.csv")) if p.name in code]


def notebook_inputs(notebook: Path) -> dict[str, str]:
    """Hashes of a notebook's cells, the code behind it, the claims it answers and the
    tables it reads."""
    return {
        "notebook": digest(*(f"{text}\0" for text in sources(notebook))),
        "code": digest(*modules(notebook)),
        "claims": digest(claim_rows(notebook.stem)),
        "data": digest(*data(notebook)),
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
