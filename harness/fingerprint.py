"""What a notebook's results depend on, as hashes: sources, helpers, claims, models.

    notebook_cells   the cells of a notebook
    code_files       every source file whose change must rerun it
    shared_tables    the tables of figures/ that belong to no set
    set_tables       the results of all sets, which notebook 08 reads
    notebook_inputs  every hash that must be the same for a result to be the same
    model_digest     a model folder's configuration, tokenizer and weights
    versions         of Python and of the packages that compute

Standard library only: the runner asks before it imports anything heavy.
"""

import csv
import json
import platform
import re
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from harness.files import ROOT, digest, set_folders

NOTEBOOKS = ROOT / "notebooks"
CLAIMS, FINDINGS = ROOT / "claims.csv", ROOT / "findings.csv"
ACROSS = "08_across_models"  # reads what the other notebooks have left, of all sets
TRAINED = ROOT / "experiments" / "trained_reading"
LEARNED = ROOT / "models" / "learned"  # what `make learn` leaves for it
CORPUS = ("facts", "world", "english", "chat", "corpus")  # of models/
COMPUTE = ("torch", "transformers", "tokenizers", "numpy", "scipy", "scikit-learn")
COMPUTE += ("pandas", "matplotlib")
MODEL_FILES = (".json", ".safetensors", ".txt", ".model", ".jinja")
MODEL_FILES += (".spm", ".tiktoken", ".bpe", ".vocab")  # of tokenizers


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

    Its own folder experiments/<name without the number>/ and others that its cells
    name; the shared rooms: the library, what all experiments share, the corpus, and
    what records and draws; and what was trained, where it asks trained readers.
    """
    own = _experiments(notebook)
    folders = (ROOT / "helpers", ROOT / "experiments", *own, ROOT / "harness")
    corpus = [ROOT / "models" / f"{name}.py" for name in CORPUS]
    asked = (ROOT / "experiments").glob("*.csv")  # prompts
    code = {p for folder in folders for p in folder.glob("*.py")}
    learned = LEARNED.rglob("*.*") if TRAINED in own else ()
    return sorted(code | {*corpus, *asked, *learned})


def _experiments(notebook: Path) -> list[Path]:
    """The folders of experiments/ that a notebook is named after, or names."""
    own = notebook.stem.partition("_")[2]
    source = "\n".join("".join(c["source"]) for c in notebook_cells(notebook))
    named = set(re.findall(r"\bexperiments\.(\w+)", source)) | {own}
    return [ROOT / "experiments" / name for name in sorted(named)]


def claim_rows(notebook: str) -> str:
    """The rows of claims.csv and findings.csv that a notebook answers, as text.

    All rows for notebook 08, which sets the verdicts on every claim side by side.
    """
    claims, findings = (
        list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))
        for path in (CLAIMS, FINDINGS)
    )
    asked = [row for row in claims if notebook in (row["notebook"], ACROSS)]
    ids = {row["id"] for row in asked}
    return repr(asked + [row for row in findings if row["id"] in ids])


def shared_tables() -> list[Path]:
    """The tables of figures/ that belong to no set."""
    return sorted((ROOT / "figures").glob("*.csv"))


def set_tables() -> dict[str, Path]:
    """The csv files that the notebooks of every set have left: "set/name" -> path.

    Not notebook 08's own, and not verdicts.csv: they are made from these.
    """
    return {
        f"{name}/{path.name}": path
        for name, folder in set_folders().items()
        for path in sorted(folder.glob("[0-9]*.csv"))
        if not path.name.startswith(ACROSS[:3])
    }


def notebook_inputs(notebook: Path) -> dict[str, str]:
    """Hash a notebook's cells, its code, the claims it answers and the tables it reads:
    shared ones, and for notebook 08 those of all sets."""
    sources = ["".join(cell["source"]) for cell in notebook_cells(notebook)]
    hashes = {
        "notebook": digest(*(f"{source}\0" for source in sources)),
        "code": digest(*code_files(notebook)),
        "claims": digest(claim_rows(notebook.stem)),
        "data": digest(*shared_tables()),
    }
    if notebook.stem == ACROSS:
        tables = set_tables()
        hashes["sets"] = digest(*(item for pair in tables.items() for item in pair))
    return hashes


def model_digest(folder: Path) -> str:
    """Hash of a model folder: names and contents of its files, in order.

    Those of folders inside it too. What has the same size and times on disk as before
    is not read again.
    """
    files = sorted(p for p in Path(folder).rglob("*") if p.suffix in MODEL_FILES)
    stats = [(p, p.stat()) for p in files if p.is_file()]
    return _files_digest(
        folder,
        *((p, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for p, s in stats),
    )


@cache
def _files_digest(folder: Path, *stats: tuple) -> str:
    files = [(path.relative_to(folder).as_posix(), path) for path, *_ in stats]
    return digest(*(item for pair in files for item in pair))


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute, without build tags."""
    out = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in COMPUTE:
        try:
            out[package] = version(package).split("+")[0]
        except PackageNotFoundError:
            out[package] = "absent"
    return out
