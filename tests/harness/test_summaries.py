"""findings.csv: every sentence has its numbers, and says them as they are."""

import csv
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.stats import Estimate
from harness import claims, files, summaries, tables


def rows(claim, part, *values, cell="m{}", n=60):
    return [
        claims.measured(claim, part, v, n=n, cell=cell.format(i))
        for i, v in enumerate(values)
    ]


def test_every_measured_claim_but_one_has_a_sentence():
    measured = {k for k, v in claims.claims().items() if v["kind"] != "literature"}
    assert measured - {*summaries.summary_templates()} == {"G6"}  # judged on paper only
    assert {*summaries.summary_templates()} <= measured


def published_rows():
    paths = files.figures_dir("mini").glob("*.measured.csv")
    return [row for path in paths for row in claims.read_rows(path)]


def test_every_number_of_a_sentence_is_measured_on_mini():
    kept = published_rows()
    measured = {row["claim"] for row in kept if not row["reason"]}
    measured -= {
        r["claim"] for r in kept if not r["part"] and not r["cell"]
    }  # a reason
    for claim in measured & {*summaries.summary_templates()}:
        said = summaries.summary_sentence(claim, kept)
        assert said and "{" not in said, (claim, summaries.summary_parts(claim))


def test_a_number_whose_interval_spans_zero_is_told_with_it():
    spans = {
        (row["claim"], row["part"])
        for row in published_rows()
        if not row["reason"] and row["low"] < 0 < row["high"]
    }
    told = {
        (claim, part)
        for claim, text in summaries.summary_templates().items()
        for part, _, kind, interval in re.findall(summaries.SLOT, text)
        if not interval and kind != ".n"
    }
    assert not spans & told


def test_the_published_sentences_are_those_of_the_published_rows():
    kept = published_rows()
    with open(files.figures_dir("mini") / "verdicts.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["verdict"] != "not tested":
                assert row["found"] == summaries.summary_sentence(row["id"], kept)


@pytest.fixture
def one_scale(monkeypatch):
    text = {"R6": "{write} and {read}"}
    monkeypatch.setattr(summaries, "summary_templates", lambda: text)


def test_a_passage_is_left_out_where_its_numbers_are_missing(monkeypatch):
    text = {"R6": "Write {write}.[[ Read {read}.]]"}
    monkeypatch.setattr(summaries, "summary_templates", lambda: text)
    own = rows("R6", "write", 0.5)
    assert summaries.summary_sentence("R6", own) == "Write 0.5."
    own += rows("R6", "read", 0.2)
    assert summaries.summary_sentence("R6", own) == "Write 0.5. Read 0.2."
    assert summaries.summary_sentence("R6", own[1:]) == ""


def test_a_range_over_cells_one_number_where_they_agree(one_scale):
    own = rows("R6", "write", 0.9659, 0.965) + rows("R6", "read", 0.77, 0.94)
    assert summaries.summary_sentence("R6", own) == "0.96 to 0.97 and 0.77 to 0.94"
    own = rows("R6", "write", 0.5) + rows("R6", "read", -0.0301)
    assert summaries.summary_sentence("R6", own) == "0.5 and −0.03"


def test_an_interval_is_the_widest_of_the_cells(monkeypatch):
    text = "{x.interval}; {x%.interval}; {x.points.interval}; {x:one.interval}; "
    text += "{y.interval}"
    monkeypatch.setattr(summaries, "summary_templates", lambda: {"R6": text})
    spread = [
        ("one", Estimate(0.3, 0.1, 0.4, 60, 0)),
        ("two", Estimate(0.2, -0.15, 0.3, 60, 0)),
    ]
    own = [claims.measured("R6", "x", estimate, cell=cell) for cell, estimate in spread]
    own += rows("R6", "y", 0.25)  # exact: no interval
    said = summaries.summary_sentence("R6", own).replace("\u00a0", " ")
    assert said == (
        "0.2 to 0.3 [−0.15, 0.4]; 20 to 30 % [−15, 40]; 20 to 30 [−15, 40]; "
        "0.3 [0.1, 0.4]; 0.25"
    )


def test_cells_by_name_percentages_points_and_counts(monkeypatch):
    text = {
        "R3": "{match_high:cosine%}, {match_high:dot%}, {match_high.points}, "
        "{match_high.n}"
    }
    monkeypatch.setattr(summaries, "summary_templates", lambda: text)
    own = rows("R3", "match_high", 1.0, cell="m, cosine", n=1240)
    own += rows("R3", "match_high", 0.0312, cell="m, dot", n=1240)
    said = summaries.summary_sentence("R3", own).replace("\u00a0", " ")
    assert said == "100 %, 3.1 %, 3.1 to 100, 1,240"


def test_without_a_number_nothing_is_said(one_scale):
    assert summaries.summary_sentence("R6", rows("R6", "write", 0.9)) == ""
    assert (
        summaries.summary_sentence("G6", [])
        == summaries.summary_sentence("L1", [])
        == ""
    )
    skipped = [claims.not_tested("R6", "no model", part="read", cell="m0")]
    assert summaries.summary_sentence("R6", rows("R6", "write", 0.9) + skipped) == ""


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(a=st.floats(-1e6, 1e6), b=st.floats(-1e6, 1e6))
def test_a_number_that_moves_moves_the_sentence(one_scale, a, b):
    said = [
        summaries.summary_sentence(
            "R6", rows("R6", "write", 0.5) + rows("R6", "read", x)
        )
        for x in (a, b)
    ]
    apart = abs(a - b) > 0.1 * max(abs(a), abs(b))
    assert said[0] != said[1] if apart else all(said)


@pytest.mark.parametrize("verdict_of", [0.05, 0.5])
def test_verdict_tables_carry_the_sentence(verdict_of, monkeypatch):
    text = {"R1": "{score%}, top {score_top%}: {gain}"}
    monkeypatch.setattr(summaries, "summary_templates", lambda: text)
    own = rows("R1", "score", verdict_of) + rows("R1", "gain", 0.0)
    own += rows("R1", "score_top", 0.8) + rows("R1", "gain_flat", 0.0)
    frame = tables.verdict_frame(own, "mini", ["R1"])
    assert frame.found[0] == summaries.summary_sentence("R1", own) != ""
    assert tables.verdict_frame([], "mini", ["R1"]).found[0] == ""
