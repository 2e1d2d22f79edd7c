"""The tally and the verdict table: what is counted, and what a column says."""

import pytest

from harness import claims, tables
from harness.publish import blocks


def arithmetic(empty_forced):
    parts = {"empty_forced": empty_forced, "length_explained": 1, "text_forced": 0}
    return [claims.measured("I0", part, x, n=8) for part, x in parts.items()]


@pytest.fixture
def kept(monkeypatch):
    """Publish planted verdicts as mini's; no other set has run."""

    def plant(rows):
        frame = tables.verdict_frame(rows, "mini").astype(str)
        by_id = {row["id"]: row for row in frame.to_dict("records")}
        found = {"mini": by_id}
        monkeypatch.setattr(blocks, "verdict_rows", lambda name: found.get(name, {}))
        return by_id

    return plant


def test_the_tally_counts_what_the_write_up_asserts(kept):
    rows = kept([claims.measured("I3", "mismatch_bare", 0, n=60)] + arithmetic(1))
    asserted = [
        row
        for row in rows.values()
        if row["status"] == "asserted" and row["kind"] != "literature"
    ]
    said = blocks.headline().splitlines()[0]
    assert said.startswith(f"Of {len(asserted)} claims that the write-up asserts")
    assert f"1 artefact, {len(asserted) - 1} not tested. Not counted: " in said
    assert "of our own" in said and said in blocks.found()
    assert "I3, ours: " in blocks.found() and "I0: " in blocks.found()


@pytest.mark.parametrize("share,verdict", [(1, "artefact"), (0.2, "reproduced")])
def test_what_arithmetic_decides_stands_for_the_papers_models_too(kept, share, verdict):
    kept(arithmetic(share))
    lines = blocks.verdicts().splitlines()
    line = next(x for x in lines if x.startswith("| [I0]"))
    words = f"{verdict}, by arithmetic"
    assert f"| asserted | {words} | {words} |" in line
    other = next(x for x in lines if x.startswith("| [R1]"))
    assert "| asserted | not tested | not tested |" in other


def test_without_its_numbers_arithmetic_decides_nothing(kept):
    kept([])
    line = next(x for x in blocks.verdicts().splitlines() if x.startswith("| [I0]"))
    assert "| asserted | not tested | not tested |" in line
