from collections import defaultdict
from dataclasses import dataclass

from harness import clauses
from harness.claims import NUMBERS, claim_row
from harness.clauses import Part


@dataclass(frozen=True)
class Judged:
    """The verdict of a cell or a claim, why, and the number it hangs on."""

    verdict: str
    reason: str
    part: Part = Part()
    cell: str = ""
    name: str = ""
    answers: tuple[clauses.ClauseResult, ...] = ()


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
    rule = clauses.parse_rule(spec["rule"])
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


def _thresholds(spec: dict, cell: str) -> dict[str, float]:
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
            answer = clauses.evaluate_clause(clause, parts, _thresholds(spec, cell))
        except LookupError as missing:
            return Judged("not tested", str(missing.args[0]), cell=cell)
        if clause.keyword == "needs" and not answer.yes:
            reason = ": ".join(filter(None, (clause.otherwise, answer.said)))
            return Judged("not tested", reason, cell=cell)
        answers.append(answer)
    verdict = clauses.cell_verdict(answers)
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
    found = [v for v in clauses.VERDICTS if any(c.verdict == v for c in tested)]
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
            verb = clauses.PHRASES[clauses.CHECKS[clause.check]][0]
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
