"""docs/lessons.md: every trap shows itself, every check catches it."""

import re
import warnings

from harness.files import ROOT

PAGE = ROOT / "docs" / "lessons.md"


def test_the_page_runs_from_top_to_bottom(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 10 and text.count("**Check:**") == 9
    shared: dict = {}
    for number, block in enumerate(blocks):
        assert number == 0 or "assert" in block, block
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # transformers warns of the penalty itself
            exec(compile(block, f"lessons.md, block {number}", "exec"), shared)
