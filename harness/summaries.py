"""Summarise findings, a sentence a claim: findings.csv with its numbers filled in.

    summary_templates    the sentences of findings.csv
    summary_parts        the measured parts that a claim's sentence names
    summary_sentence     a claim's sentence, or "" where a number of it is missing

A sentence takes no side: it holds whatever the verdict turns out to be. In it

    {part}          the value; "a to b" where a claim's cells differ
    {part:word}     of the cells whose name holds the word
    {part%}         as a percentage; {part.points} too, without the sign
    {part.n}        the number of items
"""

import csv
import functools
import re

from harness import files

SLOT = r"\{(\w+)(?::(\w+))?(%|\.points|\.n)?\}"


@functools.cache
def summary_templates() -> dict[str, str]:
    """Read the sentences of findings.csv by claim id."""
    with open(files.ROOT / "findings.csv", newline="", encoding="utf-8") as file:
        return {row["id"]: row["sentence"] for row in csv.DictReader(file)}


def summary_parts(claim: str) -> list[str]:
    """The parts that a claim's sentence names, in order."""
    return [found[0] for found in re.findall(SLOT, summary_templates().get(claim, ""))]


def summary_sentence(claim: str, rows: list[dict]) -> str:
    """Fill a claim's sentence from the rows measured for it; "" if one is missing.

    rows: as claims.measured makes them. Cells that were not tested are left out.
    """
    text = summary_templates().get(claim, "")
    own = [row for row in rows if row["claim"] == claim and not row["reason"]]
    if not all(_values(own, *slot) for slot in re.findall(SLOT, text)):
        return ""

    def fill(slot: re.Match) -> str:
        return _format_range(_values(own, *slot.groups("")), slot[3] or "")

    return re.sub(SLOT, fill, text)


def _values(rows: list[dict], part: str, word: str, kind: str) -> list[float]:
    column = "n" if kind == ".n" else "value"
    kept = (r for r in rows if r["part"] == part and word in r["cell"])
    return [float(row[column]) for row in kept]


def _format_range(values: list[float], kind: str) -> str:
    low, high = (_format_number(x, kind) for x in (min(values), max(values)))
    sign = "\u00a0%" if kind == "%" else ""  # a space that does not break
    return (low if low == high else f"{low} to {high}") + sign


def _format_number(x: float, kind: str) -> str:
    """Two significant digits, percentages without decimals; true minus signs."""
    if kind == ".n":
        return f"{x:,.0f}"
    if kind:
        x *= 100
        text = f"{x:.0f}" if abs(x) >= 10 or round(x, 1) == round(x) else f"{x:.1f}"
    else:
        text = f"{x:.2g}"
    return text.replace("-", "−") if float(text) else "0"
