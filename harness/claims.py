"""The paper as data: claims.csv, and the rows that notebooks measure for it.

claims, claim_row       the rows of claims.csv
rule_parts              the parts that a claim's rule needs
measured, not_tested    a row for a measured part, or for why there is none
record, read_rows       write and read runs/<set>/<notebook>.measured.csv
"""

import csv
import functools
import math
from pathlib import Path

import pandas as pd

from harness import clauses, files

FIELDS = ["set", "notebook", "claim", "cell", "part", "value", "low", "high", "n"]
FIELDS += ["seed", "reason"]
NUMBERS = ("value", "low", "high")


@functools.cache
def claims() -> dict[str, dict]:
    """The rows of claims.csv by id, in the file's order."""
    with open(files.ROOT / "claims.csv", newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def claim_row(claim: str) -> dict:
    """The row of one claim; ValueError for an unknown id."""
    if claim not in claims():
        raise ValueError(f"claim {claim!r}: expected one of {', '.join(claims())}")
    return claims()[claim]


def rule_parts(claim: str) -> list[str]:
    """The parts that the rule of a claim needs, in order."""
    spec = claim_row(claim)
    if spec["kind"] == "literature":
        return []
    return list(
        dict.fromkeys(n for c in clauses.parse_rule(spec["rule"]) for n in c.names)
    )


def measured(
    claim: str, part: str, estimate: object, n: int | None = None, cell: str = ""
) -> dict:
    """A row for one measured part: an Estimate, or a plain number with its n."""
    claim_row(claim)
    value = getattr(estimate, "value", estimate)
    where = f"{claim} {part} {cell}".strip()
    bounds = (getattr(estimate, "low", value), getattr(estimate, "high", value))
    numbers = dict(zip(NUMBERS, (_rounded(x) for x in (value, *bounds))))
    n = getattr(estimate, "n", n)
    if not all(map(math.isfinite, numbers.values())):
        raise ValueError(f"{where}: {numbers} is not finite; record not_tested instead")
    if numbers["low"] > numbers["high"]:
        raise ValueError(f"{where}: low above high in {numbers}")
    if n is None or n < 1:
        raise ValueError(f"{where}: n={n}; give the number of items, at least 1")
    head = {"claim": claim, "cell": cell, "part": part}
    tail = {"n": int(n), "seed": getattr(estimate, "seed", ""), "reason": ""}
    return head | numbers | tail


def not_tested(claim: str, reason: str, part: str = "", cell: str = "") -> dict:
    """A row saying why a part, a cell (no part) or the whole claim was not tested."""
    claim_row(claim)
    if not reason.strip():
        raise ValueError(f"{claim} {part} {cell}: not_tested needs a reason")
    head = {"claim": claim, "cell": cell, "part": part}
    return head | dict.fromkeys((*NUMBERS, "n", "seed"), "") | {"reason": reason}


def _rounded(x: float) -> float:
    """Round to four significant digits, so that a rule sees what the csv says.

    To two below a millionth: such a number comes from float32's rounding, and its later
    digits differ from processor to processor.
    """
    digits = 4 if abs(float(x)) >= 1e-6 else 2
    return float(f"{float(x):.{digits}g}")


def write_rows(
    rows: list[dict], set_name: str, notebook: str, run_dir: str = ""
) -> None:
    """Write a notebook's rows to runs/<set>/<notebook>.measured.csv, as a whole."""
    keyed = {}
    for row in rows:
        key = (row["claim"], row["cell"], row["part"])
        home = claim_row(row["claim"])["notebook"]
        if key in keyed:
            raise ValueError(f"{' '.join(key)}: recorded twice")
        if home != notebook:
            raise ValueError(f"{row['claim']} belongs to {home!r}, not to {notebook!r}")
        keyed[key] = {"set": set_name, "notebook": notebook, **row}
    frame = pd.DataFrame(list(keyed.values()), columns=FIELDS)
    text = frame.to_csv(index=False, lineterminator="\n")
    files.write_whole(
        files.run_dir(set_name, run_dir) / f"{notebook}.measured.csv", text
    )


def read_rows(path: str | Path) -> list[dict]:
    """Read the rows of a measured.csv, numbers as numbers.

    ValueError, one line, if it is not whole: a number that is not finite, an interval
    upside down, a row twice, a claim of another notebook.
    """
    path = Path(path)
    rows, seen = files.read_table(path, path.name, FIELDS), set()
    for row in rows:
        line, key = row.pop("line"), (row["claim"], row["cell"], row["part"])
        amiss = "the same row twice" if key in seen else _convert(row, path)
        seen.add(key)
        if amiss:
            raise ValueError(
                f"{path.name} is not whole (line {line}: {amiss}): remove it and run "
                "make reproduce"
            )
    return rows


def _convert(row: dict, path: Path) -> str:
    """Turn a row's numbers into numbers; what is amiss with it, or ""."""
    home = claims().get(row["claim"], {"notebook": ""})["notebook"]
    if home and f"{home}.measured.csv" != path.name:
        return f"{row['claim']} belongs to {home}"
    if row["reason"]:
        return ""
    try:
        row.update({k: float(row[k]) for k in NUMBERS}, n=int(row["n"]))
    except ValueError:
        return "a number that is none"
    if not all(math.isfinite(row[k]) for k in NUMBERS):
        return "a number that is not finite"
    if row["low"] > row["high"] or row["n"] < 1:
        return "an interval upside down, or n below 1"
    return ""
