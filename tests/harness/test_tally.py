"""The tally and the verdict table: what is counted, and what a column says."""

import json
import re
import shutil

import pytest

from harness import claims, files, tables
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


MINI = files.ROOT / "figures" / "mini"


@pytest.fixture
def two_sets(tmp_path, monkeypatch):
    """Figures of mini and, made from them, of smollm2, whose G1 comes out otherwise."""
    for name in ("mini", "smollm2"):
        folder = tmp_path / "figures" / name
        folder.mkdir(parents=True)
        for path in [*MINI.glob("[0-9]*.measured.csv"), *MINI.glob("*.alt.json")]:
            shutil.copy(path, folder)
    path = tmp_path / "figures" / "smollm2" / "01_generation.measured.csv"
    rows = path.read_text().splitlines(keepends=True)
    parts = [f",G1,mini-gpt2,{part},0.0,0.0,0.0," for part in ("mismatch_k1",)]
    assert any(parts[0] in row for row in rows)
    text = "".join(
        row.replace(parts[0], parts[0].replace("0.0", "3.0")) for row in rows
    )
    path.write_text(text)
    monkeypatch.setenv("REPRODUCE_OUT", str(tmp_path))
    monkeypatch.setattr(files, "ROOT", tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "weights.csv").write_text("name,set\n,smollm2\n")
    for name in ("claims.csv", "findings.csv", "notebooks"):
        (tmp_path / name).symlink_to(MINI.parents[1] / name)
    for name in ("mini", "smollm2"):
        frame = tables.gather(name, folders=[files.figures_dir(name)])
        files.write_whole(
            files.figures_dir(name) / "verdicts.csv", tables.to_text(frame)
        )
    return tmp_path


def test_every_set_that_was_run_has_a_column(two_sets):
    lines = blocks.verdicts("../").splitlines()
    heads = [cell.strip() for cell in lines[0].split("|")]
    assert heads[3:7] == ["status", "mini", "smollm2", "paper"]
    line = next(x for x in lines if x.startswith("| [G1]"))
    assert "| implied | reproduced | partly | not tested |" in line
    line = next(x for x in lines if x.startswith("| [R1]"))
    assert "(../figures/smollm2/02_" in line and "(../figures/mini/02_" in line
    line = next(x for x in lines if x.startswith("| [R7]"))
    assert re.search(r"\| [a-z ]+, across sets \|  \|  \|", line)
    table = blocks.sets().splitlines()
    assert table[0] == "| claim | statement | mini | smollm2 |"
    assert len(table) == 2 + len(blocks.HEADLINES) + 1
    reasons = blocks.reasons()
    assert "### mini" in reasons and "### smollm2" in reasons
    assert reasons.count("**R7 ") == 1 and reasons.count("**G1 ") == 2


def test_where_sets_differ_each_finding_is_told(two_sets):
    said = blocks.differences().splitlines()
    assert [line for line in said if line.startswith("- ")] == [said[0]]
    assert said[0].startswith("- G1: *A weighted sum")
    assert said[1].startswith("  - mini, **reproduced**: With all weight")
    assert said[2].startswith("  - smollm2, **partly**:") and "0 to 3" in said[2]


def test_what_runs_took_is_kept_by_set(two_sets):
    used = {"seconds": 10.0, "cpu_seconds": 8.0, "peak_mb": 700}
    for name, more in (("01_generation", 0), ("02_translation", 300)):
        done = two_sets / "runs" / "smollm2" / f"{name}.done.json"
        files.write_whole(done, json.dumps(used | {"peak_mb": 700 + more}))
    blocks.keep_costs()
    kept = two_sets / "figures" / "smollm2" / "cost.json"
    whole = json.loads(kept.read_text())["all"]
    assert whole == {"seconds": 20.0, "cpu_seconds": 16.0, "peak_mb": 1000}
    assert not (two_sets / "figures" / "mini" / "cost.json").exists()
    (two_sets / "runs" / "smollm2" / "01_generation.done.json").unlink()
    (two_sets / "runs" / "smollm2" / "02_translation.done.json").unlink()
    blocks.keep_costs()  # run on another machine: what was kept stays
    assert json.loads(kept.read_text())["all"] == whole
