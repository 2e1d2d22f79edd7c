"""Put a judged claim into words: for verdicts.csv, notebooks, documents and the site.

verdict_words      a verdict as tables show it, with the kind of evidence if special
reason_text        why a verdict is what it is, as one line
reason_groups      the same, as sentences under the cell that they speak of
clause_sentence    one clause with its numbers
"""

from collections import defaultdict

from harness.claims import claim_row
from harness.clauses import VERDICTS, Clause, ClauseResult, Part
from harness.judge import CellResult, Judged

VERBS = {  # check -> how yes, no and undecided read, between the part and the threshold
    "at_most": ("is at most", "exceeds", "straddles"),
    "at_least": ("is at least", "falls short of", "straddles"),
    "within": ("is within ±", "is beyond ±", "straddles an end of ±"),
    "above": ("is above", "is not above", "cannot be told from"),
    "at_floor": ("is not above", "is above", "cannot be told from"),
    "any_at_least": ("(one of them) reaches", "(none) reaches", "cannot be told from"),
    "value_between": ("is between", "is not between", ""),
    "count": ("was measured on at least", "was measured on fewer items than", ""),
    "monotone": ("goes steadily", "does not go steadily", ""),
    "matches": ("matches", "does not match", ""),
}
ONE_BY_ONE = 2  # cells of a claim; more are summed up, clause by clause


def verdict_words(claim: str, verdict: str) -> str:
    """A verdict as tables show it: "artefact, by arithmetic" where no model decided."""
    arithmetic = claim_row(claim)["kind"] == "arithmetic" and verdict != "not tested"
    return f"{verdict}, by arithmetic" if arithmetic else verdict


def reason_text(judged: Judged) -> str:
    """Why a verdict is what it is, on one line, its clauses separated by "; "."""
    return "; ".join(
        (f"{cell}: " if cell else "") + "; ".join(sentences)
        for cell, sentences in reason_groups(judged)
    )


def reason_groups(judged: Judged) -> list[tuple[str, list[str]]]:
    """A verdict's reason as (cell, sentences); cell "" where they are about all."""
    spec, cells = claim_row(judged.claim), judged.cells
    if spec["kind"] == "literature":
        says, source, where = (spec[k] for k in ("paper_value", "ceiling", "measure"))
        return [("", [f"the write-up: {says}; the source: {source} ({where})"])]
    if not cells:
        return [("", [judged.note])]
    if len(cells) == 1:
        return [("", _cell_sentences(cells[0]))]
    if len(cells) <= ONE_BY_ONE:
        return [(cell.cell, _cell_sentences(cell)) for cell in cells]
    sentences = _verdict_counts(cells) + _clause_ranges(cells, spec["margin"])
    return [("", sentences + _untested_cells(cells))]


def clause_sentence(result: ClauseResult) -> str:
    """A clause with its numbers: 'score 0.7 [0.6, 0.8] exceeds 0.1'."""
    if result.untested:
        return result.untested
    clause, (verb, limits) = result.clause, (_verb(result), _numbers(result))
    if clause.check == "monotone":
        series = ", ".join(f"{part.value:.4g}" for _, part in result.parts)
        return f"{clause.arguments[0]} ({series}) {verb} {clause.arguments[1]}"
    if clause.check == "count":
        name, part = result.parts[0]
        return f"{_plain(name)} {verb} {limits[0]} (n = {part.n})"
    named = [f"{_plain(name)} {_interval(part)}" for name, part in result.parts]
    if clause.check in ("above", "at_floor"):
        return f"{named[0]} {verb} {named[1]}"
    return f"{', '.join(named)} {verb} {' and '.join(limits)}"


def _verb(result: ClauseResult) -> str:
    return VERBS[result.clause.check][(True, False, None).index(result.yes)]


def _numbers(result: ClauseResult) -> list[str]:
    return [f"{threshold:.4g}" for threshold in result.thresholds]


def _interval(part: Part) -> str:
    """'0.7 [0.6, 0.8]', or the value alone where it is exact."""
    exact = part.low == part.high
    return f"{part.value:.4g}" + (
        "" if exact else f" [{part.low:.4g}, {part.high:.4g}]"
    )


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _cell_sentences(cell: CellResult) -> list[str]:
    if cell.note:
        return [cell.note]
    sentences = [clause_sentence(result) for result in cell.results]
    if cell.verdict == "not tested":
        clause = cell.results[0].clause
        if clause.keyword == "needs":
            sentences[0] = ": ".join(filter(None, (clause.otherwise, sentences[0])))
        elif not all(result.untested for result in cell.results):
            prefix = "too wide an interval, measure more items"
            sentences[0] = f"{prefix}: {sentences[0]}"
    return sentences


def _verdict_counts(cells: tuple[CellResult, ...]) -> list[str]:
    """'partly in 2 of 8 (a / b)' for each verdict of tested cells, if they differ."""
    named = {v: [c.cell for c in cells if c.verdict == v] for v in VERDICTS[:-1]}
    named = {verdict: names for verdict, names in named.items() if names}
    return [
        f"{verdict} in {len(names)} of {len(cells)} ({' / '.join(names)})"
        for verdict, names in named.items()
        if len(named) > 1
    ]


def _clause_ranges(cells: tuple[CellResult, ...], margin: str) -> list[str]:
    """Each clause over all tested cells: what was asked, how often yes, the range."""
    by_clause: dict[Clause, list[ClauseResult]] = defaultdict(list)
    for cell in cells:
        for result in cell.results if cell.verdict != "not tested" else ():
            by_clause[result.clause].append(result)
    sentences = []
    for clause, everywhere in by_clause.items():
        results = [r for r in everywhere if not r.untested]
        sentences += dict.fromkeys(r.untested for r in everywhere if r.untested)
        if results:
            values = [r.parts[0][1].value for r in results]
            name, *other = (
                _plain(a.replace("margin", margin)) for a in clause.arguments
            )
            sentences.append(
                f"{name} ({min(values):.4g} to {max(values):.4g}) "
                f"{VERBS[clause.check][0]} {', '.join(other) or 'the paper'}: "
                f"{_answer_counts(results)}"
            )
    return sentences


def _answer_counts(results: list[ClauseResult]) -> str:
    """'yes in 1, no in 2, undecided in 1 of 4': a wide interval is no answer."""
    counts = {
        word: sum(r.yes is answer for r in results)
        for word, answer in (("yes", True), ("no", False), ("undecided", None))
    }
    said = ", ".join(f"{word} in {n}" for word, n in counts.items() if n)
    return f"{said} of {len(results)}"


def _untested_cells(cells: tuple[CellResult, ...]) -> list[str]:
    named: dict[str, list[str]] = defaultdict(list)
    for cell in cells:
        if cell.verdict == "not tested":
            # What a need gives as its reason, without the numbers that follow it.
            named["; ".join(_cell_sentences(cell)).split(":")[0]].append(cell.cell)
    return [f"not tested ({why}): {' / '.join(names)}" for why, names in named.items()]
