"""Where things lie, and files that appear whole or not at all. Standard library only.

    ROOT                  the repository, found from this file
    run_dir, figures_dir  runs/<set>/ and figures/<set>/, or what the caller names
    set_folders           figures/<set>/ of every set that has been run
    write_whole           write aside, flush to disk, then rename
    read_table            the rows of a csv, or one line that says what is amiss
    remove_partial_files  what a killed write_whole has left aside
    digest                a short hash of strings, bytes and files

The environment variable REPRODUCE_OUT moves runs/ and figures/ elsewhere: a run uses it
to stage its files, the notebook tests to leave the working tree alone. REPRODUCE_KEPT
is then the place where the files of finished notebooks lie.
"""

import csv
import errno
import hashlib
import io
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WEIGHTS = ROOT / "models" / "weights.csv"  # of the public models
SEED = re.compile(r"mini-seed(\d+)")  # where `make seeds` puts mini of another seed


def check_set_name(set_name: str) -> str:
    """Return `set_name` if it can name a folder; ValueError otherwise."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}", set_name):
        raise ValueError(
            f"SET={set_name!r}: use letters, digits, '.', '_' or '-', at most 40 of "
            "them"
        )
    return set_name


def output_root() -> Path:
    """The folder of runs/ and figures/."""
    return Path(os.environ.get("REPRODUCE_OUT", ROOT)).resolve()


def run_dir(set_name: str, override: str = "") -> Path:
    """The folder of a set's executed notebooks and measured rows."""
    return Path(override or output_root() / "runs" / check_set_name(set_name))


def figures_dir(set_name: str, override: str = "") -> Path:
    """The folder of a set's figures, their data and verdicts.csv."""
    return Path(override or output_root() / "figures" / check_set_name(set_name))


def set_folders() -> dict[str, Path]:
    """figures/<set>/ of every set with measured rows: mini first, then in the order of
    models/weights.csv, then by name. Other training seeds of mini are no sets of their
    own.

    Where results go elsewhere, a set that has some there is taken from there.
    """
    found = {}
    for root in (ROOT, Path(os.environ.get("REPRODUCE_KEPT", output_root()))):
        for rows in root.glob("figures/[!.]*/[0-9]*.measured.csv"):
            if not SEED.fullmatch(rows.parent.name):
                found[rows.parent.name] = rows.parent
    with open(WEIGHTS, newline="", encoding="utf-8") as file:
        order = ["mini", *(row["set"] for row in csv.DictReader(file))]
    place = {name: number for number, name in enumerate(order)}
    return {k: found[k] for k in sorted(found, key=lambda k: (place.get(k, 99), k))}


def write_whole(path: str | Path, content: str | bytes) -> Path:
    """Write `content` to `path` so that a reader sees all of it or none of it."""
    path, text = Path(path), isinstance(content, str)
    data = content.encode("utf-8", "backslashreplace") if text else content
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    return path


def read_table(content: str | Path | bytes, name: str, columns: Iterable[str]) -> list:
    """Read a csv: one dict a row, all text, with the `line` it begins on.

    content: a path, or what it holds. ValueError, one line with `name`, unless it is
    UTF-8 without a byte-order mark, has the columns, and each row as many cells as
    there are heads, none of them huge.
    """
    data = content if isinstance(content, bytes) else Path(content).read_bytes()
    rows, line = [], 2
    try:
        if data.startswith(b"\xef\xbb\xbf"):
            raise ValueError("begins with a byte-order mark")
        reader = csv.DictReader(io.StringIO(data.decode("utf-8"), newline=""))
        heads = reader.fieldnames or []
        if missing := [column for column in columns if column not in heads]:
            raise ValueError(f"has no column {missing[0]!r}")
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"line {line}: more or fewer cells than columns")
            rows.append(row | {"line": line})
            line = reader.line_num + 1
    except (ValueError, csv.Error) as error:
        reason = "is not UTF-8" if isinstance(error, UnicodeDecodeError) else error
        raise ValueError(
            f"{name} is not whole ({reason}): remove it and run make reproduce"
        ) from None
    return rows


def remove_partial_files(folder: Path) -> None:
    """Remove what killed runs have left aside, where no one else is writing."""
    for path in folder.glob(".*"):
        if re.fullmatch(r"\..+\.\w+\.\w{8}", path.name) and path.is_file():
            path.unlink()


def is_disk_full(folder: Path) -> bool:
    """Whether the disk that holds `folder` has less than 8 MiB left."""
    return shutil.disk_usage(folder).free < 2**23


def check_writable(folder: Path) -> None:
    """OSError unless a file can be written to `folder` and the disk has room."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass
    if is_disk_full(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))


def digest(*contents: str | bytes | Path) -> str:
    """First 16 hex digits of the SHA-256 of strings, bytes and files, in order."""
    total = hashlib.sha256()
    for content in contents:
        if isinstance(content, Path):
            with content.open("rb") as file:
                total.update(hashlib.file_digest(file, "sha256").digest())
        else:
            data = content.encode("utf-8") if isinstance(content, str) else content
            total.update(hashlib.sha256(data).digest())
    return total.hexdigest()[:16]
