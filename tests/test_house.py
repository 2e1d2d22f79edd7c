"""The house itself: pins, lock, style, arrows, skips, paths, what the pages promise."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from harness import claims, wording
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


ROOMS = ("helpers", "experiments", "harness", "models", "integrations")
ROOMS += ("benchmarks", "versions")


def requirements() -> dict[str, Requirement]:
    """The pins of requirements.txt by canonical name; each line with its reason."""
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    lines = [line for line in lines if line and not line.startswith("#")]
    for line in lines:
        pin = r"[A-Za-z0-9-]+(\[[a-z,]+\])?==[\w.]+ +# \S.{8,}"
        assert re.fullmatch(pin, line), line
    found = [Requirement(line.partition("#")[0]) for line in lines]
    return {canonicalize_name(r.name): r for r in found}


def locked() -> dict[str, str]:
    """requirements.lock: canonical name -> version."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pairs = [line.split("==") for line in lines if not line.startswith("#")]
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", "==".join(pair)) for pair in pairs)
    return {canonicalize_name(name): version for name, version in pairs}


def installed_closure(
    roots: Iterable[Requirement], everywhere: bool = False
) -> set[str]:
    """Names of all installed distributions that `roots` need, themselves included.

    everywhere: without what is needed on some platforms or Pythons only.
    """
    seen, waiting = set(), [(r.name, frozenset(r.extras)) for r in roots]
    while waiting:
        name, extras = waiting.pop()
        if (canonicalize_name(name), extras) in seen:
            continue
        seen.add((canonicalize_name(name), extras))
        for line in metadata.requires(name) or []:
            r = Requirement(line)
            asked = ({"extra": extra} for extra in ("", *extras))
            if everywhere and re.search("platform|python|os_name", str(r.marker)):
                continue
            if r.marker is None or any(r.marker.evaluate(env) for env in asked):
                waiting.append((r.name, frozenset(r.extras)))
    return {name for name, _ in seen}


def test_every_requirement_is_pinned_and_has_its_reason():
    assert len(requirements()) > 15


def sources() -> Iterator[tuple[Path, str]]:
    """Every Python file of ours, and the code of every notebook."""
    for room in (*ROOMS, "tests", "notebooks"):
        for path in (ROOT / room).rglob("*.py"):
            yield path, path.read_text(encoding="utf-8")
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                code = "".join(cell["source"])
                yield path, re.sub(r"(?m)^(\s*)[%!].*", r"\1pass", code)


def imported(code: str) -> set[str]:
    """The top-level packages that some code imports by name."""
    names = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


def test_everything_imported_is_a_pinned_requirement():
    pins, providers = requirements(), metadata.packages_distributions()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = extras["optional-dependencies"].values()  # imported where they are used
    ours = {*ROOMS, "tests", *sys.stdlib_module_names}
    ours |= {Requirement(line).name for lines in extras for line in lines}
    for path, code in sources():
        for package in imported(code) - ours:
            given = {canonicalize_name(name) for name in providers.get(package, [])}
            assert given & pins.keys(), f"{path.name} imports {package}: not pinned"


def test_the_lock_holds_every_installed_version():
    lock, pins = locked(), requirements()
    for name, pin in pins.items():
        assert lock.get(name) in pin.specifier, name
    needed = installed_closure(pins.values(), everywhere=True) - {"pip"}
    assert len(needed) > 100 and needed <= lock.keys(), needed - lock.keys()
    for name in installed_closure(pins.values()) & lock.keys():
        version = metadata.version(name).partition("+")[0]
        assert lock[name] == version, f"{name}: make lock"


def run_tool(*command: str) -> subprocess.CompletedProcess:
    """Run a module of the environment from the repository's root."""
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True
    )


@pytest.mark.parametrize(
    "command",
    [
        ("ruff", "check", "--no-cache", "."),
        ("ruff", "format", "--no-cache", "--check", "."),
        ("mypy", "--no-incremental"),
    ],
    ids=["style", "format", "types"],
)
def test_the_code_is_clean(command):
    done = run_tool(*command)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-500:]


def test_no_builtin_is_shadowed():
    """Ruff's rules A hold, but for one public keyword, which is named as in torch."""
    lint = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["lint"]
    assert "A" in lint["select"] and not [x for x in lint["ignore"] if x[0] == "A"]
    assert lint["flake8-builtins"]["ignorelist"] == ["compile"]


def test_rooms_import_only_what_they_may():
    """The contracts of pyproject.toml, which cover every module of every room."""
    code = "from importlinter.cli import lint_imports_command as lint; lint()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-500:]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    rooms = {p.parent.name for p in ROOT.glob("*/__init__.py")} - {"tests"}
    assert rooms <= set(settings["importlinter"]["root_packages"])


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


def pages() -> dict[str, str]:
    """The pages a reader meets, by their path in the repository."""
    paths = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "tests" / "README.md"]
    paths += (ROOT / "docs").glob("*.md")
    return {p.relative_to(ROOT).as_posix(): p.read_text("utf-8") for p in paths}


def test_commands_and_blocks_of_the_pages_exist():
    make = (ROOT / "Makefile").read_text()
    for page, text in pages().items():
        for command in re.findall(r"(?m)^ {4}make ([\w.-]+)|`make\s([\w.-]+)", text):
            assert re.search(rf"(?m)^{''.join(command)}:", make), (page, command)
        for module in re.findall(
            r"-m ((?:harness|models|tests|benchmarks)[\w.]*)", text
        ):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists()
    ci = (ROOT / ".ci" / "run").read_text()
    text = pages()["README.md"]
    assert ci.rstrip().splitlines()[-1] == "make test" and "    make test" in text
    names = re.findall(r"<!-- generated: (\w+) -->", "".join(pages().values()))
    assert sorted(names) == sorted(blocks.BLOCKS)  # each block stands on one page


def test_links_of_the_pages_lead_somewhere():
    for page, text in pages().items():
        for link in re.findall(r"\]\(([^)\s]+)\)", text):
            if "://" in link:
                continue
            path, _, anchor = link.partition("#")
            target = (ROOT / page).parent / path if path else ROOT / page
            assert target.exists(), f"{page}: {link}"
            if anchor:
                there = target.read_text(encoding="utf-8")
                heads = re.findall(r"(?m)^#+ (.+)$", there)
                heads = [re.sub(r"[^\w -]", "", h).lower() for h in heads]
                known = {h.replace(" ", "-") for h in heads}
                known |= set(re.findall(r'<a id="(\w+)"', there))
                assert anchor in known, f"{page}: {link}"


def test_paths_named_in_the_pages_exist():
    rooms = "helpers|experiments|harness|models|tests|notebooks|figures/mini"
    shape = rf"`((?:{rooms}|original)/[\w./]+)`"
    for page, text in pages().items():
        for name in re.findall(shape, text):
            if "NN_" not in name and "/name/" not in name:  # stand for any
                assert (ROOT / name).exists(), f"{page}: {name}"


def test_the_readme_is_short_and_its_python_runs(capsys):
    text = pages()["README.md"]
    assert len(text.splitlines()) <= 140
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in code.splitlines() if line.strip()]) <= 6
    exec(compile(code, "README.md", "exec"), {})
    assert "Paris" in capsys.readouterr().out


def test_the_verdict_table_and_the_kept_verdicts_are_the_same_rows():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    block = re.search(r"generated: verdicts -->\n(.*?)<!-- end", text, re.DOTALL)[1]
    kept = blocks.verdict_rows("mini")
    if kept:
        for claim, row in kept.items():
            if row["kind"] != "literature":
                line = next(
                    x for x in block.splitlines() if x.startswith(f"| [{claim}]")
                )
                words = blocks.verdict_cell(claim, {"mini": kept}, "mini")
                assert words.startswith(wording.verdict_words(claim, row["verdict"]))
                assert f"| {row['status']} | {words} |" in line
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
