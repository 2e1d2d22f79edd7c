"""docs/weight-rules.md: its example runs, and it lists every rule, norm and mode."""

import inspect
import re

from harness.files import ROOT
from helpers import mixture, step_modes, weight_rules

TEXT = (ROOT / "docs" / "weight-rules.md").read_text()


def makers(module):
    """The public functions of a module that make what the loop takes."""
    kinds = ("WeightRule", "Switch", "Feedback", "Tensor", "tuple[Tensor, Tensor]")
    for name, function in inspect.getmembers(module, inspect.isfunction):
        own = function.__module__ == module.__name__ and not name.startswith("_")
        if own and function.__annotations__["return"] in kinds:
            yield name


def test_the_page_lists_everything_that_can_be_chosen():
    names = {*makers(weight_rules), *makers(step_modes), *mixture.NORMS}
    assert {"gumbel", "cold_stop", "fit_aligner", "over_l2"} <= names
    helpers = {"random_rule", "sort_weights", "named_rule"}
    assert {n for n in names - helpers if f"`{n}`" not in TEXT} == set()


def test_the_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    exec(compile(code, "weight-rules.md", "exec"), {})
    assert "entropy" in capsys.readouterr().out
