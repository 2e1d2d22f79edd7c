"""What a rerun changed: verdicts, measured numbers, files.

    committed_results   the csv files of figures/<set>/ in git's HEAD
    kept_results        those that lie there now
    compare             two of them -> Comparison, with its text in words

On another processor sums are rounded otherwise and last digits move, so files are not
expected to be equal. What must hold: the same verdicts, every measured number inside
the 95 % interval committed for it, and exact ones equal within last digits.
"""

import io
import re
import subprocess
import tarfile
from dataclasses import dataclass

from harness import files, safe_text

LAST_DIGITS = 1e-3  # relative; numbers are kept with four significant digits
ROUNDING = 1e-6  # float32's: below it a number is noise (see claims._rounded)
NUMBER = re.compile(r"[-+]?[0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?")
SHOWN = 10  # names in a list, before "and n more"


@dataclass(frozen=True)
class Results:
    """The csv files of a set, by name, and in words where they come from."""

    source: str
    tables: dict[str, bytes]


@dataclass(frozen=True)
class Comparison:
    """What differs between two Results of a set; each item a line's worth of words."""

    source: str
    claims: int  # compared
    numbers: int
    verdicts_that_differ: list[str]
    numbers_outside: list[str]
    equal: list[str]  # names of csv files, from here on
    last_digits: list[str]
    otherwise: list[str]
    missing: list[str]
    new: list[str]

    @property
    def same_findings(self) -> bool:
        """Whether verdicts are the same and no number left its interval."""
        return not (self.verdicts_that_differ or self.numbers_outside)

    def text(self) -> str:
        """Four lines: with what it was compared, verdicts, numbers, files."""
        verdicts = f"the same verdicts, {self.claims} of {self.claims}"
        if flipped := self.verdicts_that_differ:
            verdicts = f"verdicts that differ, {len(flipped)} of {self.claims}: "
            verdicts += _listed(flipped)
        numbers = f"all {self.numbers} measured numbers inside their 95 % interval, "
        numbers += "exact ones equal within last digits"
        if outside := self.numbers_outside:
            numbers = f"measured numbers outside their 95 % interval, {len(outside)} "
            numbers += f"of {self.numbers}: {_listed(outside)}"
        kinds = {
            "equal": self.equal,
            "differ only in last digits": self.last_digits,
            "differ otherwise": self.otherwise,
            "missing": self.missing,
            "new": self.new,
        }
        counts = []
        for words, names in kinds.items():
            if names:
                shown = "" if words == "equal" else f" ({_listed(names)})"
                counts.append(f"{len(names)} {words}{shown}")
        lines = [f"\ncompared with {self.source}:", verdicts, numbers]
        lines.append(f"csv files: {', '.join(counts) or 'none'}")
        return safe_text.escape_invisible("\n  ".join(lines))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def committed_results(set_name: str) -> Results | None:
    """The set's csv files in git's HEAD; None without git, a checkout or the set."""
    git = ["git", "-C", str(files.ROOT)]
    place = f"figures/{set_name}"
    try:
        head, archive = (
            subprocess.run([*git, *command], capture_output=True, check=True).stdout
            for command in (
                ["rev-parse", "--short", "HEAD"],
                ["archive", "HEAD", "--", place],
            )
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    tables = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar.getmembers():
            folder, _, name = member.name.rpartition("/")
            if folder == place and name.endswith(".csv"):
                tables[name] = tar.extractfile(member).read()
    return Results(f"{place} as committed ({head.decode().strip()})", tables)


def kept_results(set_name: str) -> Results:
    """The set's csv files as they lie in figures/<set>/ now."""
    paths = sorted(files.figures_dir(set_name).glob("[!.]*.csv"))
    source = f"the earlier files of figures/{set_name}"
    return Results(source, {path.name: path.read_bytes() for path in paths})


def compare(before: Results, now: Results) -> Comparison:
    """Compare a set's results with those before; ValueError where a file is cut."""
    old, new = before.tables, now.tables
    verdicts, verdicts_now = _verdicts(old), _verdicts(new)
    rows, rows_now = _measured_rows(old), _measured_rows(new)
    both = [name for name in sorted(old) if name in new]
    kinds = {name: _difference(old[name], new[name]) for name in both}
    measured = {key: row for key, row in rows.items() if not row["reason"]}
    return Comparison(
        before.source,
        len(verdicts | verdicts_now),
        len(measured),
        [
            f"{claim} {verdicts.get(claim, 'absent')}, now "
            f"{verdicts_now.get(claim, 'absent')}"
            for claim in verdicts | verdicts_now
            if verdicts.get(claim) != verdicts_now.get(claim)
        ],
        [
            message
            for key, row in measured.items()
            if (message := _number_outside(row, rows_now.get(key)))
        ],
        [name for name in both if kinds[name] == "equal"],
        [name for name in both if kinds[name] == "last digits"],
        [name for name in both if kinds[name] == "otherwise"],
        sorted({*old} - {*new}),
        sorted({*new} - {*old}),
    )


def _rows(name: str, content: bytes, columns: set[str]) -> list[dict[str, str]]:
    """The rows of a csv file; ValueError unless it is whole and has the columns."""
    return files.read_table(content, name, sorted(columns))


def _verdicts(tables: dict[str, bytes]) -> dict[str, str]:
    """Claim -> verdict."""
    name = "verdicts.csv"
    rows = _rows(name, tables[name], {"id", "verdict"}) if name in tables else []
    return {row["id"]: row["verdict"] for row in rows}


def _measured_rows(tables: dict[str, bytes]) -> dict[tuple, dict[str, str]]:
    """(claim, cell, part) -> row, of all notebooks."""
    key = ("claim", "cell", "part")
    columns = {*key, "value", "low", "high", "reason"}
    return {
        tuple(row[name] for name in key): row
        for name in sorted(tables)
        if name.endswith(".measured.csv")
        for row in _rows(name, tables[name], columns)
    }


def _number_outside(row: dict[str, str], row_now: dict[str, str] | None) -> str:
    """What is wrong with a number that was measured before; "" if nothing is."""
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    name = " ".join(row[part] for part in ("claim", "cell", "part") if row[part])
    interval = "" if low == high else f" [{row['low']}, {row['high']}]"
    if row_now is None or row_now["reason"]:
        return f"{name} {row['value']}{interval}, now not measured"
    value_now = float(row_now["value"])
    inside = low < high and low <= value_now <= high
    if inside or _same_but_last_digits(value, value_now):
        return ""
    return f"{name} {row['value']}{interval}, now {row_now['value']}"


def _same_but_last_digits(a: float, b: float) -> bool:
    larger = max(abs(a), abs(b))
    return larger < ROUNDING or abs(a - b) <= LAST_DIGITS * larger


def _difference(before: bytes, now: bytes) -> str:
    """How two csv files differ: "equal", "last digits" or "otherwise".

    Their text is split into numbers and the rest: the rest and whole numbers (counts,
    token ids) must be equal for "last digits".
    """
    if before == now:
        return "equal"
    texts = [content.decode("utf-8") for content in (before, now)]
    rest, rest_now = (NUMBER.sub("0", text) for text in texts)
    if rest != rest_now:
        return "otherwise"
    for a, b in zip(*(NUMBER.findall(text) for text in texts)):
        whole = a.lstrip("+-").isdigit() and b.lstrip("+-").isdigit()
        if a != b and (whole or not _same_but_last_digits(float(a), float(b))):
            return "otherwise"
    return "last digits"
