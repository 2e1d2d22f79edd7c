"""The rules: every verdict can be reached, and every judged number can change one."""

import csv
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments.stats import Estimate
from harness import claims, clauses, judge, tables, wording
from harness.clauses import Part, evaluate_clause, parse_rule
from harness.publish import blocks

MEASURED = [c for c, row in claims.claims().items() if row["kind"] != "literature"]
LITERATURE = [c for c in claims.claims() if c not in MEASURED]


def spec(claim):
    return claims.claim_row(claim)


def a_set(claim):
    return spec(claim)["sets"].split()[0]


def a_cell(claim):
    paper = spec(claim)["paper_value"]
    return paper.split("|")[0].rsplit("=", 1)[0] if "=" in paper else "model"


def solve(clause, wish, row, cell):
    """Parts {name: (value, n)} that answer one clause with `wish`."""
    numbers = judge.thresholds(row, cell)

    def limit(i):
        a = clause.arguments[i]
        if a.lstrip("-") in numbers:
            return -numbers["margin"] if a[0] == "-" else numbers[a]
        return float(a)

    first = clause.arguments[0]
    step = 1.0 if wish else -1.0
    if clause.check == "at_most":
        return {first: limit(1) - step}
    if clause.check == "at_least":
        return {first: limit(1) + step}
    if clause.check == "within":
        return {first: 0.0 if wish else limit(1) + 1}
    if clause.check in ("above", "at_floor"):
        up = step if clause.check == "above" else -step
        return {first: up, clause.arguments[1]: 0.0}
    if clause.check == "any_at_least":
        return dict.fromkeys(clause.names, limit(0) + step)
    if clause.check == "value_between":
        return {first: (limit(1) + limit(2)) / 2 if wish else limit(1) - 1}
    if clause.check == "matches":
        return {first: numbers["paper"] + (0 if wish else 0.5)}
    if clause.check == "monotone":
        sign = {"up": 1, "down": -1}[clause.arguments[1]] * step
        return {f"{first}@{d}": 0.9 + sign * d for d in (0, 0.5, 1)}
    raise AssertionError(clause)


def measure(claim, wishes):
    """Rows answering each clause of a claim's rule by its keyword's wish.

    `wishes` is keyword or clause -> yes/no; later clauses may share a part with
    earlier ones, so clauses wished by name come last.
    """
    row, cell, values, short = spec(claim), a_cell(claim), {}, set()
    rule = parse_rule(row["rule"])
    order = sorted(rule, key=lambda c: (c in wishes, c.keyword != "without"))
    for clause in order:
        wish = wishes.get(clause, wishes[clause.keyword])
        if clause.check == "count":
            if not wish:
                short.add(clause.arguments[0])
        else:
            values.update(solve(clause, wish, row, cell))
    for clause in rule:  # a count's part may be judged nowhere else
        if clause.check == "count":
            values.setdefault(clause.arguments[0], 0.0)
    return [
        claims.measured(claim, part, value, n=1 if part in short else 5000, cell=cell)
        for part, value in values.items()
    ]


reason = wording.reason_text
STATEMENT = {"needs": True, "holds": True, "with": True, "without": False}


@pytest.mark.parametrize("claim", MEASURED)
def test_statement_that_holds_is_reproduced(claim):
    judged = judge.judge(claim, measure(claim, STATEMENT), a_set(claim))
    assert judged.verdict == "reproduced", reason(judged)


@pytest.mark.parametrize("claim", MEASURED)
def test_statement_that_fails_is_not_reproduced(claim):
    wishes = {"needs": True, "holds": False, "with": False, "without": False}
    rows = measure(claim, wishes)
    judged = judge.judge(claim, rows, a_set(claim))
    assert judged.verdict == "not reproduced", reason(judged)


STEPS = [
    c for c in MEASURED if any(k.keyword == "with" for k in parse_rule(spec(c)["rule"]))
]


@pytest.mark.parametrize("claim", STEPS)
def test_pattern_that_vanishes_without_the_step_is_an_artefact(claim):
    wishes = {"needs": True, "holds": False, "with": True, "without": True}
    rows = measure(claim, wishes)
    assert judge.judge(claim, rows, a_set(claim)).verdict == "artefact"


CASES = [(c, clause) for c in MEASURED for clause in parse_rule(spec(c)["rule"])]


@pytest.mark.parametrize(
    "claim,clause",
    CASES,
    ids=[f"{c}-{k.keyword}-{'-'.join(k.names)}" for c, k in CASES],
)
def test_every_clause_of_every_rule_can_change_the_verdict(claim, clause):
    base = dict(STATEMENT)
    if clause.keyword in ("with", "without"):
        base = {"needs": True, "holds": False, "with": True, "without": True}
    before = judge.judge(claim, measure(claim, base), a_set(claim))
    flipped = measure(claim, base | {clause: not base[clause.keyword]})
    after = judge.judge(claim, flipped, a_set(claim))
    assert before.verdict != after.verdict, (reason(before), reason(after))
    if clause.keyword == "needs":
        assert after.verdict == "not tested" and reason(after)


@pytest.mark.parametrize("claim", LITERATURE)
def test_a_citation_is_judged_from_its_two_readings(claim, monkeypatch):
    row = spec(claim)
    assert row["paper_value"] and row["ceiling"] and row["measure"]
    found = {judge.judge(claim, [], "mini").verdict}
    for source in (row["paper_value"], "another", "contested"):
        monkeypatch.setitem(claims.claims(), claim, row | {"ceiling": source})
        found.add(judge.judge(claim, [], "mini").verdict)
    assert found == {*clauses.BY_HAND}  # a comparison of two strings is no verdict


def test_one_citation_is_contested():
    named = [c for c in LITERATURE if "contested" in judge.judge(c, [], "mini").verdict]
    assert named == ["L9"]


@pytest.mark.parametrize("claim", MEASURED)
def test_every_part_of_a_rule_is_explained_and_every_row_is_complete(claim):
    row = spec(claim)
    for part in claims.rule_parts(claim):
        assert part in row["measure"] or f"{part}@" in row["measure"], part
    for column in ("section", "notebook", "statement", "floor", "ceiling", "sets"):
        assert row[column], column
    assert row["kind"] in ("identity", "capability", "arithmetic")
    assert any(c.keyword == "holds" for c in parse_rule(row["rule"]))


def test_claims_are_all_there():
    ids = [f"G{i}" for i in range(1, 9)] + ["R1", "R2", "R3", "R4", "R5a", "R5b", "R6"]
    ids += ["R7"]
    ids += [f"I{i}" for i in range(6)] + [f"N{i}" for i in range(1, 7)]
    ids += [f"W{i}" for i in range(1, 8)]
    ids += [f"T{i}" for i in range(1, 7)]
    ids += [f"M{i}" for i in range(1, 6)]
    ids += [f"L{i}" for i in range(1, 10)]
    assert list(claims.claims()) == ids
    assert {row["status"] for row in claims.claims().values()} == {*blocks.STATUS}
    kinds = {row["id"]: row["kind"] for row in claims.claims().values()}
    assert [c for c, kind in kinds.items() if kind == "arithmetic"] == ["I0"]


# --- the checks ----------------------------------------------------------------------

numbers = st.floats(-10, 10)


@st.composite
def part(draw):
    low, value, high = sorted(draw(st.tuples(numbers, numbers, numbers)))
    return Part(value, low, high, 50)


@given(part(), numbers)
def test_thresholds_decide_only_what_the_whole_interval_supports(x, t):
    for check, sign in ((clauses.at_most, 1), (clauses.at_least, -1)):
        answer = check(x, t)
        ends = [sign * (end - t) for end in (x.low, x.high)]
        if answer is True:
            assert max(ends) <= 0
        elif answer is False:
            assert min(ends) > 0
        else:
            assert min(ends) <= 0 < max(ends)


@given(part(), st.floats(0.01, 5))
def test_within_is_an_equivalence_not_the_lack_of_a_difference(x, t):
    answer = clauses.within(x, t)
    assert (answer is True) == (max(abs(x.low), abs(x.high)) <= t)
    if answer is False:  # all of it is too large, on one side
        assert min(abs(x.low), abs(x.high)) > t and x.low * x.high > 0
    mirrored = Part(-x.value, -x.high, -x.low, x.n)
    assert clauses.within(mirrored, t) is answer


@given(part(), part(), st.floats(0, 2))
def test_above_and_at_floor_are_negations_and_never_both_yes(x, y, margin):
    answer = clauses.above(x, y, margin)
    opposite = clauses.at_floor(x, y, margin)
    assert (answer is None) == (opposite is None)
    assert answer is None or answer is not opposite
    if answer:
        assert x.low > y.high


@given(st.lists(numbers, min_size=3, max_size=8), st.floats(0.01, 1))
def test_monotone_is_about_order_and_needs_an_effect(values, margin):
    flat = [Part(1.0, 1.0, 1.0, 50)] * len(values)
    assert not clauses.monotone(flat, "up", margin)
    rising = [Part(v, v, v, 50) for v in sorted(values)]
    moved = max(values) - min(values) > margin
    assert clauses.monotone(rising, "up", margin) == moved
    assert clauses.monotone(rising[::-1], "down", margin) == moved
    assert not clauses.monotone(rising, "down", margin)
    assert not clauses.monotone(rising[:2], "up", margin)


def test_a_rule_that_cannot_be_read_is_named():
    for rule in ("holds nearly(x, 1)", "maybe at_most(x, 1)", "holds at_most x 1"):
        with pytest.raises(ValueError, match="expected KEYWORD CHECK"):
            parse_rule(rule)


def test_sentences_carry_the_numbers():
    clause = parse_rule("holds at_most(score, 0.1)")[0]
    answer = evaluate_clause(clause, {"score": Part(0.71, 0.65, 0.77, 60)}, {})
    assert answer.yes is False
    assert wording.clause_sentence(answer) == "score 0.71 [0.65, 0.77] exceeds 0.1"
    wide = evaluate_clause(clause, {"score": Part(0.1, 0.0, 0.2, 60)}, {})
    assert wide.yes is None and "straddles" in wording.clause_sentence(wide)


# --- cells, sets and missing numbers -------------------------------------------------


def r1(cell, score, gain, n=60, half=0.02):
    def estimate(v):
        return Estimate(v, v - half, v + half, n, 0)

    return [
        claims.measured("R1", "score", estimate(score), cell=cell),
        claims.measured("R1", "gain", estimate(gain), cell=cell),
        claims.measured("R1", "gain_flat", estimate(gain), cell=cell),
    ]


def test_reading_the_top_token_only_is_partly():
    judged = judge.judge("R1", r1("m", 0.6, 0.0), "mini")
    assert judged.verdict == "partly"
    assert "score 0.6 [0.58, 0.62] exceeds 0.1" in reason(judged)


def test_a_wide_interval_decides_nothing():
    judged = judge.judge("R1", r1("m", 0.1, 0.05, half=0.5), "mini")
    assert judged.verdict == "not tested" and "too wide" in reason(judged)


def test_models_that_disagree_make_it_partly():
    rows = r1("a", 0.0, 0.0) + r1("b", 0.9, 0.3)
    judged = judge.judge("R1", rows, "mini")
    assert judged.verdict == "partly" and "a:" in reason(judged)


def r2(cell, recall, sliced, floor=0.1, ceiling=0.9):
    values = {"recall": recall, "recall_sliced": sliced, "floor": floor}
    values["ceiling"] = ceiling
    return [claims.measured("R2", p, v, n=60, cell=cell) for p, v in values.items()]


def test_a_frame_not_understood_is_no_evidence():
    rows = r2("m, direct", 0.1, 0.1, ceiling=0.1)
    judged = judge.judge("R2", rows, "mini")
    assert judged.verdict == "not tested"
    assert "frame not understood" in reason(judged)
    rows += r2("m, selfie", 0.8, 0.0)
    judged = judge.judge("R2", rows, "mini")
    assert judged.verdict == "artefact" and "frame not understood" in reason(judged)


def test_a_pattern_missing_in_some_cells_is_not_an_artefact():
    rows = r2("a", 0.8, 0.0) + r2("b", 0.8, 0.8) + r2("c", 0.8, 0.0)
    judged = judge.judge("R2", rows, "mini")
    assert judged.verdict == "not reproduced"
    assert "artefact in 2 of 3 (a / c)" in reason(judged)


def test_a_reason_is_data_whatever_its_words_hold():
    rows = r1("a; b: c", 0.9, 0.3) + [claims.not_tested("R1", "x; y", cell="d")]
    groups = wording.reason_groups(judge.judge("R1", rows, "mini"))
    assert [(cell, len(said)) for cell, said in groups] == [("a; b: c", 3), ("d", 1)]
    assert groups[1] == ("d", ["x; y"])


def test_reasons_for_what_was_not_measured():
    assert judge.judge("R1", [], "mini").verdict == "not tested"
    rows = [claims.not_tested("I1", "no INSTRUCT model was given")]
    judged = judge.judge("I1", rows, "stories")
    note = "no INSTRUCT model was given"
    assert judged == judge.Judged("I1", "not tested", note=note)
    assert reason(judged) == note
    lacking = judge.judge("R1", r1("m", 0.9, 0.3)[::2], "mini")
    assert (lacking.verdict, reason(lacking)) == ("not tested", "not measured: gain")
    only_paper = judge.judge("G6", measure("G6", STATEMENT), "mini")
    assert only_paper.verdict == "not tested" and "paper" in reason(only_paper)


def test_a_part_declared_untested_is_left_out_and_named():
    rows = [
        claims.measured("R4", "loops_mixture", 0.9, n=60, cell="m"),
        claims.measured("R4", "loops_excess_top", 0.5, n=60, cell="m"),
        claims.not_tested("R4", "built in on mini", part="spanish", cell="m"),
    ]
    judged = judge.judge("R4", rows, "mini")
    assert judged.verdict == "reproduced" and "built in on mini" in reason(judged)


def test_parts_without_a_cell_are_shared():
    rows = r2("a", 0.8, 0.0) + r2("b", 0.8, 0.0)
    rows = [r for r in rows if r["part"] != "ceiling"]
    rows.append(claims.measured("R2", "ceiling", 0.9, n=60))
    assert judge.judge("R2", rows, "mini").verdict == "artefact"


# --- recording -----------------------------------------------------------------------


def test_bad_measurements_are_refused():
    with pytest.raises(ValueError, match="expected one of G1"):
        claims.measured("X9", "score", 1.0, n=1)
    with pytest.raises(ValueError, match="not finite"):
        claims.measured("R1", "score", math.nan, n=1)
    with pytest.raises(ValueError, match="number of items"):
        claims.measured("R1", "score", 1.0)
    with pytest.raises(ValueError, match="low above high"):
        claims.measured("R1", "score", Estimate(0.0, 1.0, -1.0, 5, 0))
    with pytest.raises(ValueError, match="needs a reason"):
        claims.not_tested("R1", " ")


def test_rows_go_out_and_come_back(tmp_path):
    rows = r1("m, 'x', y", 0.123456, 0.2) + [claims.not_tested("R5a", "a, b")]
    claims.write_rows(rows, "mini", "02_translation", run_dir=str(tmp_path))
    path = tmp_path / "02_translation.measured.csv"
    back = claims.read_rows(path)
    assert [r["part"] for r in back] == ["score", "gain", "gain_flat", ""]
    assert back[0]["value"] == 0.1235 and back[0]["cell"] == "m, 'x', y"
    before = judge.judge("R1", rows, "mini")
    assert judge.judge("R1", back, "mini") == before
    frame = tables.gather("mini", run_dir=str(tmp_path))
    assert list(frame["id"]) == list(claims.claims())
    assert frame.set_index("id").loc["R5a", "reason"] == "a, b"
    assert set(frame["verdict"]) <= {*clauses.VERDICTS, *clauses.BY_HAND}
    assert list(frame["status"]) == [row["status"] for row in claims.claims().values()]
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_rows_are_refused_twice_or_from_another_notebook(tmp_path):
    rows = r1("m", 0.5, 0.2)
    with pytest.raises(ValueError, match="recorded twice"):
        claims.write_rows(rows + rows, "mini", "02_translation", run_dir=str(tmp_path))
    with pytest.raises(ValueError, match="belongs to"):
        claims.write_rows(rows, "mini", "01_generation", run_dir=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_claims_csv_is_plain_utf8_with_one_row_an_id():
    path = claims.files.ROOT / "claims.csv"
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({r["id"] for r in rows}) == len(rows)
    assert all(None not in r and None not in r.values() for r in rows)
