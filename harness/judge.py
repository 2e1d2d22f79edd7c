"""Judge a claim on a model set: measured rows -> a verdict and what it was decided by.

    judge     the verdict of a claim, cell by cell, clause by clause
    Judged    the result, as data; harness.wording puts it into words

What a rule means is written in harness/clauses.py. No one types a verdict.
"""

from collections import defaultdict
from dataclasses import dataclass

from harness import clauses
from harness.claims import NUMBERS, claim_row
from harness.clauses import Clause, ClauseResult, Part

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class CellResult:
    """The verdict of one cell: a model, a frame, a support, ... .

    results: the clauses that decided it; of a need that is not met, that one alone.
    note: why it was not tested, where no clause says so.
    """

    cell: str
    verdict: str
    results: tuple[ClauseResult, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Judged:
    """The verdict of a claim, what it was decided by, and the number it hangs on.

    cells: the results of all cells, or none and a `note`. cell, part, measured: where
    the number stands, its name, and itself.
    """

    claim: str
    verdict: str
    cells: tuple[CellResult, ...] = ()
    note: str = ""
    cell: str = ""
    part: str = ""
    measured: Part = Part()


def judge(
    claim: str, rows: list[dict], set_name: str, unmeasured: str = NOT_MEASURED
) -> Judged:
    """Judge a claim on a model set from its rows. unmeasured: why there are none."""
    spec = claim_row(claim)
    if spec["kind"] == "literature":
        return Judged(claim, clauses.compared_by_hand(spec))
    kind = set_name if set_name in ("mini", "paper") else "yours"
    if kind not in spec["sets"].split():
        note = f"its numbers are judged on {spec['sets']} only"
        return Judged(claim, "not tested", note=note)
    cells: dict[str, dict[str, Part]] = defaultdict(dict)
    for row in rows:
        if row["claim"] == claim:
            keys = ("reason",) if row["reason"] else (*NUMBERS, "n")
            cells[row["cell"]][row["part"]] = Part(**{k: row[k] for k in keys})
    shared = cells.pop("", {})
    if "" in shared or not (cells or shared):
        note = shared[""].reason if shared else unmeasured
        return Judged(claim, "not tested", note=note)
    rule = clauses.parse_rule(spec["rule"])
    judged_parts = {n.split("@")[0] for c in rule for n in c.names} | {""}
    cells = {
        cell: own
        for cell, own in cells.items()
        if any(name.split("@")[0] in judged_parts for name in own)
    }
    results = (
        _judge_cell(rule, shared | own, thresholds(spec, cell), cell)
        for cell, own in (cells or {"": {}}).items()
    )
    return _combine(claim, tuple(results))


def thresholds(spec: dict, cell: str) -> dict[str, float]:
    """The thresholds of a row of claims.csv that its rule calls by name."""
    pairs = [p.rsplit("=", 1) for p in spec["paper_value"].split("|") if "=" in p]
    out = {k: float(spec[k]) for k in ("margin", "tolerance") if spec[k]}
    return out | {"paper": float(dict(pairs).get(cell, "nan"))}


def _judge_cell(
    rule: list[Clause], parts: dict[str, Part], limits: dict[str, float], cell: str
) -> CellResult:
    if "" in parts:
        return CellResult(cell, "not tested", note=parts[""].reason)
    results = []
    for clause in rule:
        try:
            result = clauses.evaluate_clause(clause, parts, limits)
        except LookupError as missing:
            return CellResult(cell, "not tested", note=str(missing.args[0]))
        if clause.keyword != "needs":
            results.append(result)
        elif not result.yes:
            return CellResult(cell, "not tested", (result,))
    return CellResult(cell, clauses.cell_verdict(results), tuple(results))


def _combine(claim: str, cells: tuple[CellResult, ...]) -> Judged:
    """One verdict from those of the cells, and the number it hangs on."""
    tested = [c for c in cells if c.verdict != "not tested"]
    found = {c.verdict for c in tested}
    if len(found) > 1:
        mixed = found & {"reproduced", "partly"}
        verdict = "partly" if mixed else "not reproduced"
    else:
        verdict = found.pop() if found else "not tested"
    first = next((c for c in tested if c.verdict == verdict), (tested or cells)[0])
    part, measured = _deciding_number(first)
    return Judged(claim, verdict, cells, "", first.cell, part, measured)


def _deciding_number(cell: CellResult) -> tuple[str, Part]:
    """The part that a cell's verdict hangs on; of a failed cell the one that fails."""
    keyword = "with" if cell.verdict == "artefact" else "holds"
    asked = [r for r in cell.results if r.clause.keyword == keyword and not r.untested]
    if cell.verdict in ("partly", "not reproduced"):
        asked.sort(key=lambda result: result.yes is not False)
    if not asked:
        return "", Part()
    clause = asked[0].clause
    one_number = clause.check != "monotone"
    return clause.names[0], asked[0].parts[0][1] if one_number else Part()
