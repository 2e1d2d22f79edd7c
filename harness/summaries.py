"""Summarise findings, a sentence a claim: findings.csv with its numbers filled in.

    summary_templates    the sentences of findings.csv
    summary_parts        the measured parts that a claim's sentence names
    summary_sentence     a claim's sentence, or "" where a number of it is missing

A sentence takes no side: it holds whatever the verdict turns out to be. In it

    {part}          the value; "a to b" where a claim's cells differ
    {part:word}     of the cells whose name holds the word
    {part%}         as a percentage; {part.points} too, without the sign
    {part.n}        the number of items
    {part.interval} the value and its 95 % interval, "0.3 [0.2, 0.4]"; over cells the
                    widest: from the lowest bound to the highest. An exact number has
                    none. Also {part%.interval} and {part.points.interval}
    [[...]]         a passage that is left out where one of its numbers is missing

A number that a sentence tells as an effect is told with its interval.
"""

import csv
import functools
import re

from harness import files

SLOT = r"\{(\w+)(?::(\w+))?(%|\.points|\.n)?(\.interval)?\}"


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
    own = [row for row in rows if row["claim"] == claim and not row["reason"]]

    def whole(text: str) -> str:
        slots = re.findall(SLOT, text)
        known = all(_rows_of(own, part, word) for part, word, *_ in slots)
        return text if known else ""

    text = summary_templates().get(claim, "")
    text = whole(re.sub(r"\[\[(.*?)\]\]", lambda passage: whole(passage[1]), text))

    def fill(slot: re.Match) -> str:
        part, word, kind, interval = slot.groups("")
        kept = _rows_of(own, part, word)
        said = _format_range([r["n" if kind == ".n" else "value"] for r in kept], kind)
        return said + (_format_interval(kept, kind) if interval else "")

    return re.sub(SLOT, fill, text)


def _rows_of(rows: list[dict], part: str, word: str) -> list[dict]:
    return [row for row in rows if row["part"] == part and word in row["cell"]]


def _format_range(values: list[float], kind: str) -> str:
    low, high = (_format_number(x, kind) for x in (min(values), max(values)))
    sign = "\u00a0%" if kind == "%" else ""  # a space that does not break
    return (low if low == high else f"{low} to {high}") + sign


def _format_interval(rows: list[dict], kind: str) -> str:
    """' [low, high]', lowest bound and highest; "" where all are exact."""
    if all(row["low"] == row["high"] for row in rows):
        return ""
    bounds = min(row["low"] for row in rows), max(row["high"] for row in rows)
    return " [{}, {}]".format(*(_format_number(x, kind) for x in bounds))


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
