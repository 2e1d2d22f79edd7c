"""The house itself: pins, skips, paths, arrows between modules, README promises."""

import ast
import re
import subprocess
import sys

import pytest

from harness import claims
from harness.files import ROOT
from harness.publish import blocks


def tracked(*patterns):
    done = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "--", *patterns],
        capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode == 0 and done.stdout:
        return [
            ROOT / line for line in done.stdout.splitlines() if (ROOT / line).exists()
        ]
    return [p for pattern in patterns for p in ROOT.glob(pattern)]


def test_every_requirement_is_pinned_and_has_its_reason():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    assert len(lines) > 15
    for line in lines:
        assert re.fullmatch(r"[A-Za-z0-9-]+==[\w.]+ +# \S.{8,}", line), line


def test_style_is_clean():
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "."],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:]


def skips(path):
    """(line, reason) of every call that can skip a test or expect its failure."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func).split(".")[-1]
        if name not in ("skip", "skipif", "xfail", "importorskip", "skipTest"):
            continue
        said = [k.value for k in node.keywords if k.arg == "reason"]
        said += node.args[:1] if name != "skipif" else []
        texts = [a.value for a in said if isinstance(a, ast.Constant)]
        yield node.lineno, texts[0] if texts else None


def test_every_skip_has_its_row_and_every_row_its_skip():
    text = (ROOT / "tests" / "QUARANTINES.md").read_text(encoding="utf-8")
    rows = {
        tuple(cell.strip() for cell in line.strip("|").split("|"))
        for line in text.splitlines()
        if line.startswith("|") and not line.startswith(("|---", "| file"))
    }
    assert all(len(row) == 3 and all(row) for row in rows), rows
    listed = {(file, reason) for file, reason, _ in rows}
    found = set()
    for path in tracked("tests/**/*.py", "tests/*.py", "notebooks/*.py"):
        for line, reason in skips(path):
            assert reason, f"{path.name}:{line} skips without a reason in plain words"
            found.add((path.name, reason))
    assert found == listed


SECRETS = r"/(work|root|home|Users)/\w|/tmp/\w|shared/(CLAIMS|DESIGN|ANCHORS)"


def test_no_path_of_any_machine_in_what_is_published():
    texts = tracked("*.py", "*.md", "*.csv", "*.json", "*.toml", "*.ipynb", "Makefile")
    for path in texts:
        if path.name in ("test_house.py", "tokenizer.json", "vocab.json"):
            continue
        found = re.search(SECRETS, path.read_text(encoding="utf-8"))
        assert not found, f"{path.name}: {found[0]}"


def test_the_readme_keeps_its_promises():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    make = (ROOT / "Makefile").read_text()
    for command in re.findall(r"(?m)^ {4}make ([\w-]+)|`make ([\w-]+)", text):
        assert re.search(rf"(?m)^{''.join(command)}:", make), command
    ci = (ROOT / ".ci" / "run").read_text()
    assert ci.rstrip().splitlines()[-1] == "make test" and "    make test" in text
    names = re.findall(r"<!-- generated: (\w+) -->", text)
    assert names and set(names) <= set(blocks.BLOCKS)


def test_the_readme_table_and_the_kept_verdicts_are_the_same_rows():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"generated: verdicts -->\n(.*?)<!-- end", text, re.DOTALL)[1]
    kept = blocks.verdict_rows("mini")
    if kept:
        for id, row in kept.items():
            if row["kind"] != "literature":
                line = next(x for x in block.splitlines() if x.startswith(f"| [{id}]"))
                assert f"| {row['verdict']} |" in line
        assert list(kept) == list(claims.claims())


def test_a_missed_target_says_where_the_time_goes():
    profile = [
        {"shape": "a", "contestant": "ours", "operator": "mm", "share": "0.5"},
        {"shape": "b", "contestant": "ours", "operator": "add", "share": "1"},
    ]
    product = {"shape": "a", "threads": "2", "ms": "1.25", "gb a second": "20.4"}
    products = [product | {"way": "library"}, product | {"way": "sums", "threads": "1"}]
    said = blocks.missed("a", profile, products)
    assert "on a: mm 50%." in said and "add" not in said
    assert "library, 2 threads, 1.2 ms (20 GB a second); sums, 1 thread, 1.2" in said
    assert blocks.missed("b", profile, products).endswith("on b: add 100%.")


def test_generated_blocks_are_filled_and_text_cannot_break_a_table():
    text = "a\n<!-- generated: citations -->\nstale text\n<!-- end: citations -->\nb"
    filled = blocks.fill_blocks(text)
    assert "stale text" not in filled and "| L1 |" in filled and filled.endswith("\nb")
    assert blocks.fill_blocks(filled) == filled
    with pytest.raises(ValueError, match="generated block 'nothing'"):
        blocks.fill_blocks("<!-- generated: nothing -->\n<!-- end: nothing -->")
    assert blocks.plain("a|b\n<script>*x*") == r"a\|b &lt;script&gt;\*x\*"
    row = {"part": "a_score", "value": "0.71", "low": "0.65", "high": "0.77", "n": "62"}
    assert blocks.format_number(row) == "a score 0.71 [0.65, 0.77], n = 62"
