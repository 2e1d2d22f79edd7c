"""The rules of claims.csv: pure functions from measured parts to a verdict word.

A row of claims.csv says in our words what the write-up states, which parts are
measured, and the rule. A rule judges the write-up's statement, not our prediction.
It is a list of clauses, separated by ';', each a keyword and a check:

    needs CHECK [else REASON]   a precondition; where it fails the cell is "not tested"
    holds CHECK                 one part of the write-up's statement
    with CHECK                  its pattern, measured with the suspected step
    without CHECK               the pattern gone, measured with that step alone removed

A measured part is an estimate: value, 95 % interval (low, high), n. A check is
answered yes, no or undecided (None), from the interval, so that a wide interval
decides nothing; only value_between, count, monotone and matches look at the point.
`margin` and `tolerance` stand for the row's columns.

    at_most(x, t)           yes: high <= t. no: low > t
    at_least(x, t)          yes: low >= t. no: high < t
    above(x, y)             yes: low of x > high of y
                            no: high of x <= high of y + margin
    at_floor(x, y)          the negation of above(x, y)
    within(x, t)            yes: -t <= low and high <= t. no: all of it is outside
    any_at_least(t, x, ..)  at least one of the parts is at_least(t)
    value_between(x, a, b)  a <= value <= b, the point estimate only (headroom)
    count(x, n)             x was measured on at least n items
    monotone(x, up|down)    over the doses x@d, no step goes back by more than margin
    matches(x)              |x - paper_value of this cell| <= tolerance
    cited                   literature: two readings by hand (compared_by_hand)

One cell (a model, a frame, a support ...) is judged at a time:

    any need not met                                 not tested, with that reason
    every with- and every without-clause is yes      artefact
    every holds-clause is yes                        reproduced
    some are yes                                     partly
    none is yes, at least one is no                  not reproduced
    nothing could be decided                         not tested: interval too wide

Cells that were tested make the claim (judge.py): all alike give that verdict; if any
is reproduced or partly, partly; a mixture of artefact and not reproduced is not
reproduced, because the pattern is then not there even with the step.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

VERDICTS = ("reproduced", "partly", "not reproduced", "artefact", "not tested")
BY_HAND = ("by hand: agrees", "by hand: differs", "by hand: contested")


@dataclass(frozen=True)
class Part:
    """One measured number with its interval, or the reason why there is none."""

    value: float = math.nan
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    reason: str = ""


def at_most(x: Part, t: float) -> bool | None:
    """Yes if the whole interval is at or below t, no if all of it is above."""
    return True if x.high <= t else False if x.low > t else None


def at_least(x: Part, t: float) -> bool | None:
    """Yes if the whole interval is at or above t, no if all of it is below."""
    return True if x.low >= t else False if x.high < t else None


def within(x: Part, t: float) -> bool | None:
    """Yes if the whole interval lies in [-t, t], no if all of it is beyond one end."""
    outside = x.low > t or x.high < -t
    return True if -t <= x.low and x.high <= t else False if outside else None


def above(x: Part, y: Part, margin: float) -> bool | None:
    """Yes if the intervals are apart, x above; no if x cannot exceed y by margin."""
    return True if x.low > y.high else False if x.high <= y.high + margin else None


def at_floor(x: Part, y: Part, margin: float) -> bool | None:
    """The negation of above."""
    answer = above(x, y, margin)
    return None if answer is None else not answer


def any_at_least(t: float, *parts: Part) -> bool | None:
    """At least one of the parts is at_least(t)."""
    answers = [at_least(part, t) for part in parts]
    return True if True in answers else None if None in answers else False


def value_between(x: Part, a: float, b: float) -> bool:
    """Whether the point estimate lies in [a, b]."""
    return a <= x.value <= b


def count(x: Part, n: float) -> bool:
    """Whether x was measured on at least n items."""
    return x.n >= n


def monotone(series: list[Part], direction: str, margin: float) -> bool:
    """Whether values over rising doses (three or more) never go back by more than
    margin, and move by more than margin from the first dose to the last."""
    sign = {"up": 1, "down": -1}[direction]
    values = [sign * part.value for part in series]
    steps = [b - a for a, b in zip(values, values[1:])]
    return len(steps) > 1 and min(steps) >= -margin and sum(steps) > margin


def matches(x: Part, paper: float, tolerance: float) -> bool:
    """Whether the value is the paper's within the tolerance."""
    return abs(x.value - paper) <= tolerance + 1e-12


CHECKS = {
    f.__name__: f
    for f in (at_most, at_least, within, above, at_floor, any_at_least)
    + (value_between, count, monotone, matches)
}


@dataclass(frozen=True)
class Clause:
    """`keyword check(arguments) else otherwise` of a rule."""

    keyword: str
    check: str
    arguments: tuple[str, ...]
    otherwise: str = ""

    @property
    def names(self) -> list[str]:
        """The measured parts it speaks of."""
        words = {"margin", "-margin", "tolerance", "up", "down"}
        return [a for a in self.arguments if a not in words and not _is_number(a)]


@dataclass(frozen=True)
class ClauseResult:
    """What a clause says of a cell, with the numbers it was decided by.

    yes: None where the interval decides nothing. parts: (name, measured part) in the
    order of the arguments, of monotone the doses. thresholds: its numeric arguments.
    untested: why a part of it was not tested, where that was declared; no other field
    means anything then.
    """

    clause: Clause
    yes: bool | None
    parts: tuple[tuple[str, Part], ...] = ()
    thresholds: tuple[float, ...] = ()
    untested: str = ""


def _is_number(text: str) -> bool:
    return re.fullmatch(r"-?\d+(\.\d+)?(e-?\d+)?", text) is not None


def parse_rule(rule: str) -> list[Clause]:
    """The clauses of a rule; ValueError names the one that cannot be read."""
    out = []
    for text in filter(None, map(str.strip, rule.split(";"))):
        shape = r"(needs|holds|with|without) (\w+)\((.*?)\)(?: else (.+))?"
        found = re.fullmatch(shape, text)
        if not found or found[2] not in CHECKS:
            known = ", ".join(CHECKS)
            raise ValueError(f"clause {text!r}: expected KEYWORD CHECK(...) of {known}")
        arguments = tuple(a.strip() for a in found[3].split(","))
        out.append(Clause(found[1], found[2], arguments, found[4] or ""))
    return out


def evaluate_clause(
    clause: Clause, cell: Mapping[str, Part], thresholds: Mapping[str, float]
) -> ClauseResult:
    """Answer a clause from a cell's parts. `thresholds`: margin, tolerance, paper.

    LookupError if a part was never recorded.
    """
    values, parts = [], []
    for a in clause.arguments:
        if a.lstrip("-") in thresholds:
            values.append(-thresholds[a[1:]] if a[0] == "-" else thresholds[a])
        elif a in ("up", "down"):
            values.append(a)
        elif _is_number(a):
            values.append(float(a))
        elif clause.check == "monotone":
            parts = _doses(a, cell)
            values.append([dose for _, dose in parts])
        elif a not in cell:
            raise LookupError(f"not measured: {a}")
        elif cell[a].reason:
            untested = f"{a}: {cell[a].reason}"
            return ClauseResult(clause, None, untested=untested)
        else:
            parts.append((a, cell[a]))
            values.append(cell[a])
    limits = tuple(v for v in values if isinstance(v, float))
    if clause.check == "matches":
        values += [thresholds["paper"], thresholds["tolerance"]]
        limits = (thresholds["paper"],)
    elif clause.check in ("above", "at_floor", "monotone"):
        values.append(thresholds["margin"])
    return ClauseResult(clause, CHECKS[clause.check](*values), tuple(parts), limits)


def _doses(part: str, cell: Mapping[str, Part]) -> list[tuple[str, Part]]:
    """The parts `part@dose` of a cell, by rising dose."""
    doses = [(n, dose) for n, dose in cell.items() if n.startswith(f"{part}@")]
    if not doses or any(dose.reason for _, dose in doses):
        raise LookupError(f"not measured: {part}@dose")
    return sorted(doses, key=lambda dose: float(dose[0].split("@")[1]))


def compared_by_hand(spec: Mapping[str, str]) -> str:
    """What a literature row comes to: two readings typed by hand, no measurement.

    Contested where the sources disagree, which the row's ceiling then says.
    """
    if spec["ceiling"] == "contested":
        return BY_HAND[2]
    return BY_HAND[spec["paper_value"] != spec["ceiling"]]


def cell_verdict(results: Iterable[ClauseResult]) -> str:
    """The verdict of one cell whose needs are met."""

    def of(keyword: str) -> list[bool | None]:
        asked = (r for r in results if r.clause.keyword == keyword)
        return [r.yes for r in asked if not r.untested]

    if of("with") and of("without") and all(of("with") + of("without")):
        return "artefact"
    holds = of("holds")
    if holds and all(holds):
        return "reproduced"
    if any(holds):
        return "partly"
    return "not reproduced" if False in holds else "not tested"
