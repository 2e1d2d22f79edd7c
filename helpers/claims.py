"""The paper as data: claims.csv, the measured rows, and the verdict they give.

    measured, not_tested    rows that a notebook records
    record                  write them to runs/<set>/<notebook>.measured.csv
    judge, verdict_frame    rows -> verdict, reason and number of a claim
    gather                  all claims of a set, from every notebook's rows
    answer                  after a section's measurements: what they found
    show                    a notebook's last cell: verdict words and the table

What a rule means is written in judging.py. Nothing here or anywhere types a verdict.
"""

import csv
import functools
import math
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from helpers import files, findings, judging
from helpers.judging import Part

FIELDS = ["set", "notebook", "claim", "cell", "part", "value", "low", "high", "n"]
FIELDS += ["seed", "reason"]
NUMBERS = ("value", "low", "high")


@dataclass(frozen=True)
class Judged:
    """The verdict of a cell or a claim, why, and the number it hangs on."""

    verdict: str
    reason: str
    part: Part = Part()
    cell: str = ""
    name: str = ""
    answers: tuple[judging.Answer, ...] = ()


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


def parts(claim: str) -> list[str]:
    """The parts that the rule of a claim needs, in order."""
    spec = claim_row(claim)
    if spec["kind"] == "literature":
        return []
    return list(dict.fromkeys(n for c in judging.parse(spec["rule"]) for n in c.names))


# --- recording ----------------------------------------------------------------------


def measured(claim: str, part: str, estimate, n: int | None = None, cell="") -> dict:
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


def _rounded(x) -> float:
    """Four significant digits, so that a rule sees what the csv says.

    Two below a millionth: such a number is made of float32's rounding, and its later
    digits are the processor's.
    """
    digits = 4 if abs(float(x)) >= 1e-6 else 2
    return float(f"{float(x):.{digits}g}")


def record(rows: list[dict], set: str, notebook: str, run_dir: str = "") -> None:
    """Write a notebook's rows to runs/<set>/<notebook>.measured.csv, whole or not."""
    keyed = {}
    for row in rows:
        key = (row["claim"], row["cell"], row["part"])
        home = claim_row(row["claim"])["notebook"]
        if key in keyed:
            raise ValueError(f"{' '.join(key)}: recorded twice")
        if home != notebook:
            raise ValueError(f"{row['claim']} belongs to {home!r}, not to {notebook!r}")
        keyed[key] = {"set": set, "notebook": notebook, **row}
    frame = pd.DataFrame(list(keyed.values()), columns=FIELDS)
    text = frame.to_csv(index=False, lineterminator="\n")
    files.write_whole(files.run_dir(set, run_dir) / f"{notebook}.measured.csv", text)


def read_rows(path: str | Path) -> list[dict]:
    """The rows of a measured.csv, numbers as numbers; ValueError if it is not whole."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        try:
            if not row["reason"]:
                row.update({k: float(row[k]) for k in NUMBERS}, n=int(row["n"]))
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{Path(path).name} is not whole: remove it and run make reproduce"
            ) from None
    return rows


# --- judging ------------------------------------------------------------------------


def judge(claim: str, rows: list[dict], set: str) -> Judged:
    """The verdict of a claim on a set, from the rows measured for it."""
    spec = claim_row(claim)
    if spec["kind"] == "literature":
        return _cited(spec)
    kind = set if set in ("mini", "paper") else "yours"
    if kind not in spec["sets"].split():
        return Judged("not tested", f"its numbers are judged on {spec['sets']} only")
    cells: dict[str, dict[str, Part]] = defaultdict(dict)
    for row in rows:
        if row["claim"] == claim:
            keys = ("reason",) if row["reason"] else (*NUMBERS, "n")
            cells[row["cell"]][row["part"]] = Part(**{k: row[k] for k in keys})
    shared = cells.pop("", {})
    if "" in shared or not (cells or shared):
        return Judged("not tested", shared[""].reason if shared else "not measured")
    rule = judging.parse(spec["rule"])
    judged_parts = {n.split("@")[0] for c in rule for n in c.names} | {""}
    cells = {
        cell: own
        for cell, own in cells.items()
        if any(name.split("@")[0] in judged_parts for name in own)
    }
    return _combine(
        [
            _judge_cell(rule, shared | own, spec, cell)
            for cell, own in (cells or {"": {}}).items()
        ],
        spec,
    )


def _cited(spec: dict) -> Judged:
    says, source = spec["paper_value"], spec["ceiling"]
    verdict = "reproduced" if says == source else "not reproduced"
    reason = f"the write-up: {says}; the source: {source} ({spec['measure']})"
    return Judged(verdict, reason)


def _numbers(spec: dict, cell: str) -> dict[str, float]:
    """The thresholds of a row that its rule calls by name."""
    pairs = [p.rsplit("=", 1) for p in spec["paper_value"].split("|") if "=" in p]
    out = {k: float(spec[k]) for k in ("margin", "tolerance") if spec[k]}
    return out | {"paper": float(dict(pairs).get(cell, "nan"))}


def _judge_cell(rule, parts: dict[str, Part], spec: dict, cell: str) -> Judged:
    if "" in parts:
        return Judged("not tested", parts[""].reason, cell=cell)
    answers = []
    for clause in rule:
        try:
            answer = judging.ask(clause, parts, _numbers(spec, cell))
        except LookupError as missing:
            return Judged("not tested", str(missing.args[0]), cell=cell)
        if clause.keyword == "needs" and not answer.yes:
            reason = ": ".join(filter(None, (clause.otherwise, answer.said)))
            return Judged("not tested", reason, cell=cell)
        answers.append(answer)
    verdict = judging.verdict(answers)
    said = [a for a in answers if a.clause.keyword != "needs"]
    reason = "; ".join(a.said for a in said)
    if verdict == "not tested" and not all(a.skipped for a in said):
        reason = f"too wide an interval, measure more items: {reason}"
    key = "with" if verdict == "artefact" else "holds"
    head = [a for a in said if a.clause.keyword == key and not a.skipped]
    if verdict in ("partly", "not reproduced"):  # the number that fails it comes first
        head.sort(key=lambda a: a.yes is not False)
    part, name = (head[0].part, head[0].clause.names[0]) if head else (Part(), "")
    return Judged(verdict, reason, part, cell, name, tuple(said))


def _combine(cells: list[Judged], spec: dict) -> Judged:
    """One verdict, and one reason with its numbers, from those of the cells."""
    tested = [c for c in cells if c.verdict != "not tested"]
    found = [v for v in judging.VERDICTS if any(c.verdict == v for c in tested)]
    if len(found) > 1:
        mixed = "partly" if {"reproduced", "partly"} & {*found} else "not reproduced"
    verdict = "not tested" if not found else found[0] if len(found) == 1 else mixed
    head = next((c for c in tested if c.verdict == verdict), (tested or cells)[0])
    if len(cells) <= 2:
        lines = [f"{c.cell}: {c.reason}" if len(cells) > 1 else c.reason for c in cells]
    else:
        lines = [_split(cells, found), *_clause_lines(tested, spec)]
        lines += _untested(cells)
    return Judged(
        verdict, "; ".join(filter(None, lines)), head.part, head.cell, head.name
    )


def _split(cells: list[Judged], found: list[str]) -> str:
    if len(found) < 2:
        return ""
    named = {v: [c.cell for c in cells if c.verdict == v] for v in found}
    return "; ".join(
        f"{verdict} in {len(c)} of {len(cells)} ({' / '.join(c)})"
        for verdict, c in named.items()
    )


def _clause_lines(tested: list[Judged], spec: dict) -> list[str]:
    """Each clause over all tested cells: what was asked, how often yes, the range."""
    by_clause = defaultdict(list)
    for answer in (a for cell in tested for a in cell.answers):
        by_clause[answer.clause].append(answer)
    lines = []
    for clause, all_answers in by_clause.items():
        answers = [a for a in all_answers if not a.skipped]
        lines += dict.fromkeys(a.said for a in all_answers if a.skipped)
        if answers:
            values = [a.part.value for a in answers]
            verb = judging.SAYS[judging.CHECKS[clause.check]][0]
            name, *other = (a.replace("margin", spec["margin"]).replace("_", " ")
                            for a in clause.arguments)  # fmt: skip
            lines.append(
                f"{name} ({min(values):.4g} to {max(values):.4g}) {verb} "
                f"{', '.join(other) or 'the paper'} in "
                f"{sum(a.yes is True for a in answers)} of {len(answers)}"
            )
    return lines


def _untested(cells: list[Judged]) -> list[str]:
    reasons = defaultdict(list)
    for cell in cells:
        if cell.verdict == "not tested":
            reasons[cell.reason.split(":")[0]].append(cell.cell)
    return [f"not tested ({r}): {' / '.join(c)}" for r, c in reasons.items()]


# --- tables -------------------------------------------------------------------------


def verdict_frame(rows: list[dict], set: str, ids=None, why=None) -> pd.DataFrame:
    """One row a claim. `why`: notebook -> reason, for claims that have no rows."""
    kept = ("section", "notebook", "kind", "paper_value", "statement")
    out = []
    for id in ids or claims():
        spec, judged = claim_row(id), judge(id, rows, set)
        reason = judged.reason
        if reason == "not measured":
            reason = (why or {}).get(spec["notebook"], reason)
        part, seeds = judged.part, {r["seed"] for r in rows if r["claim"] == id}
        numbers = {"part": judged.name} | {k: getattr(part, k) for k in NUMBERS}
        numbers["n"] = part.n or None
        seed = ", ".join(sorted(str(s) for s in seeds if s != ""))
        head = {"id": id, "verdict": judged.verdict, "reason": reason}
        tail = {"seed": seed, "cell": judged.cell, "set": set}
        found = findings.sentence(id, rows) if judged.verdict != "not tested" else ""
        more = {k: spec[k] for k in kept} | {"found": found}
        out.append(head | numbers | tail | more)
    return pd.DataFrame(out).astype({"n": "Int64"})


def gather(set: str, run_dir: str = "", failed: dict | None = None) -> pd.DataFrame:
    """Judge every claim from all rows at hand: this run's, else figures/<set>/'s.

    `failed`: notebook -> why it could not be run, which its claims then say.
    """
    rows, why = [], dict(failed or {})
    for notebook in dict.fromkeys(row["notebook"] for row in claims().values()):
        if not notebook or notebook in why:
            continue
        path = find_rows(notebook, set, run_dir)
        if path:
            rows += read_rows(path)
        else:
            written = (files.ROOT / "notebooks" / f"{notebook}.ipynb").exists()
            state = f"has not finished on {set}" if written else "is not written"
            why[notebook] = f"notebook {notebook} {state}"
    return verdict_frame(rows, set, why=why)


def find_rows(notebook: str, set: str, run_dir: str = "") -> Path | None:
    """A notebook's measured rows: of this run, else the ones kept with the figures."""
    name = f"{notebook}.measured.csv"
    folders = (files.run_dir(set, run_dir), files.figures_dir(set), files.kept_dir(set))
    places = (folder / name for folder in folders)
    return next((path for path in places if path.exists()), None)


def answer(rows: list[dict], set: str, *ids: str) -> None:
    """Display verdict and finding of claims, from the rows measured so far."""
    from html import escape

    from IPython.display import HTML, display

    frame = verdict_frame(rows, set, ids)
    lines = [
        f"<p><b>{row.id}, {row.verdict}:</b> "
        f"{escape(row.found or row.reason.removeprefix('not tested '))}</p>"
        for row in frame.itertuples()
    ]
    display(HTML(files.visible("\n".join(lines))))


def show(notebook: str, set: str, run_dir: str = "") -> None:
    """Print verdict words, display reasons: a notebook's claims, or ("") all."""
    from IPython.display import HTML, display

    frame = gather(set, run_dir)
    if notebook:
        frame = frame[frame["notebook"] == notebook]
    print("\n".join(f"{row.id}  {row.verdict}" for row in frame.itertuples()))
    with pd.option_context("display.max_colwidth", None):
        columns = ["id", "statement", "verdict", "found", "reason"]
        html = frame[columns].to_html(index=False, escape=True)
    display(HTML(files.visible(html)))
