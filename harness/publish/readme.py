"""Publish mini's results: stripped notebooks, and the generated blocks of README.md.

    publish       only if every notebook is up to date, with its default parameters
    strip         a notebook's bytes without what changes from run to run
    fill          README text with its blocks replaced
    BLOCKS        name -> function that writes the block

A block stands between <!-- generated: name --> and <!-- end: name -->.
"""

import csv
import html
import json
import re
import subprocess
import sys
from pathlib import Path

from harness import claims, clauses, files, judge

VOLATILE = "metadata.papermill cell.metadata.papermill cell.metadata.execution "
VOLATILE += "metadata.language_info.version"
README = files.ROOT / "README.md"


def publish(jobs, finished) -> int:
    """Copy the executed notebooks of `jobs` into notebooks/, and fill README.md."""
    stale = [job.name for job in jobs if job.parameters or not finished(job)]
    if stale:
        raise ValueError(f"{', '.join(stale)} not up to date: run make reproduce first")
    for job in jobs:
        executed = files.run_dir("mini") / job.path.name
        replace_file(job.path, strip(executed.read_bytes()))
    replace_file(
        README, fill_blocks(README.read_text(encoding="utf-8")).encode("utf-8")
    )
    return 0


def replace_file(path: Path, content: bytes) -> None:
    """Write only what differs, and say so."""
    if not path.exists() or path.read_bytes() != content:
        files.write_whole(path, content)
        print(f"published {path.relative_to(files.ROOT)}")


def strip(notebook: bytes) -> bytes:
    """A notebook with its outputs and counts, without volatile metadata."""
    command = [sys.executable, "-m", "nbstripout", "--keep-output", "--keep-count"]
    done = subprocess.run(
        [*command, "--extra-keys", VOLATILE], input=notebook, capture_output=True
    )
    if done.returncode:
        raise ValueError(f"nbstripout: {done.stderr.decode(errors='replace')[-200:]}")
    return done.stdout


def fill_blocks(text: str) -> str:
    """`text` with every generated block written anew; ValueError for an unknown one."""

    def block(found):
        name = found[1]
        if name not in BLOCKS:
            raise ValueError(f"README block {name!r}: expected {', '.join(BLOCKS)}")
        body = BLOCKS[name]().strip()
        return f"<!-- generated: {name} -->\n{body}\n<!-- end: {name} -->"

    shape = r"<!-- generated: (\w+) -->\n.*?<!-- end: \1 -->"
    return re.sub(shape, block, text, flags=re.DOTALL)


def plain(text: str) -> str:
    """Text for a Markdown table cell, whatever a model wrote into it."""
    text = html.escape(str(text), quote=False).replace("|", "\\|")
    return re.sub(r"([*_`])", r"\\\1", " ".join(text.split()))


def badges(citation: str | None = None) -> str:
    """Badges that open the playground elsewhere, if CITATION.cff says where we are."""
    cited = citation or (files.ROOT / "CITATION.cff").read_text(encoding="utf-8")
    where = re.search(r"(?m)^repository-code: \S*github\.com/([\w.-]+/[\w.-]+)$", cited)
    if not where:
        return (
            "Binder and Colab badges appear here once CITATION.cff names the GitHub\n"
            "repository as `repository-code`; `.devcontainer` opens anywhere."
        )
    there = "?urlpath=lab/tree/notebooks/00_playground.ipynb"
    binder = f"https://mybinder.org/v2/gh/{where[1]}/HEAD{there}"
    colab = "https://colab.research.google.com"
    opened = f"{colab}/github/{where[1]}/blob/HEAD/binder/colab.ipynb"
    return (
        f"[![Binder](https://mybinder.org/badge_logo.svg)]({binder})\n"
        f"[![Open in Colab]({colab}/assets/colab-badge.svg)]({opened})"
    )


def verdict_rows(set: str) -> dict[str, dict]:
    """The kept verdicts of a set by id; empty if it has not run."""
    path = files.ROOT / "figures" / set / "verdicts.csv"
    if not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        return {row["id"]: row for row in csv.DictReader(file)}


def found() -> str:
    """What was found on mini: by verdict, each claim and the numbers that answer it."""
    rows, lines = verdict_rows("mini"), []
    measured = [r for r in rows.values() if r["kind"] != "literature"]
    for verdict in clauses.VERDICTS:
        named = [r for r in measured if r["verdict"] == verdict]
        if named:
            head = verdict.capitalize()
            lines += ["", f"**{head}, {len(named)} of {len(measured)}.**", ""]
        for r in named:
            said = f"*{plain(r['statement'])}* {plain(r.get('found') or r['reason'])}"
            lines.append(f"- {r['id']}: {said}")
    return "\n".join(lines).strip() or "Not measured yet."


def verdicts() -> str:
    """The verdict table, a column a set, and the number behind mini's verdict."""
    mini, paper = verdict_rows("mini"), verdict_rows("paper")
    head = (
        "| claim | the write-up says | mini | paper | number on mini |\n|" + "---|" * 5
    )
    lines = [head]
    for id, spec in claims.claims().items():
        if spec["kind"] == "literature":
            continue
        ours = mini.get(id, {})
        words = [
            rows.get(id, {}).get("verdict", "not tested") for rows in (mini, paper)
        ]
        link = f"[{id}](notebooks/{spec['notebook']}.ipynb)"
        said = plain(spec["statement"])
        lines.append(
            f"| {link} | {said} | {words[0]} | {words[1]} | {format_number(ours)} |"
        )
    return "\n".join(lines)


def format_number(row: dict) -> str:
    """'score 0.71 [0.65, 0.77], n = 62, seed 0 (model)' of a verdict row, or ''."""
    if not row.get("value"):
        return ""
    exact = row["low"] == row["high"]
    interval = "" if exact else f" [{row['low']}, {row['high']}]"
    part = row["part"].replace("_", " ")
    seed = f", seed {row['seed']}" if row.get("seed") else ""
    cell = f" ({row['cell']})" if row.get("cell") else ""
    return plain(f"{part} {row['value']}{interval}, n = {row['n']}{seed}{cell}")


def reasons() -> str:
    """Why each verdict on mini is what it is."""
    return "\n".join(
        f"- **{row['id']} {row['verdict']}**: {plain(row['reason'])}"
        for row in verdict_rows("mini").values()
        if row["kind"] != "literature"
    )


def citations() -> str:
    """The write-up's method and citation claims against the sources."""
    lines = [
        "| claim | the write-up says | the source says | verdict |\n|" + "---|" * 4
    ]
    for id, spec in claims.claims().items():
        if spec["kind"] == "literature":
            verdict = judge.judge(id, [], "mini").verdict
            says = f"{spec['statement']} ({spec['section']})"
            source = f"{spec['ceiling']}: {spec['measure']}"
            lines.append(f"| {id} | {plain(says)} | {plain(source)} | {verdict} |")
    return "\n".join(lines)


def changes() -> str:
    """Commits that touched claims.csv after its rules were first fixed."""
    git = ["git", "-C", str(files.ROOT), "log", "--reverse", "--format=%h %ad %s"]
    done = subprocess.run(
        [*git, "--date=short", "--", "claims.csv"], capture_output=True, text=True
    )
    first, *later = done.stdout.splitlines() or ["no history here"]
    return "\n".join(
        [f"- fixed first: {plain(first)}", *(f"- {plain(x)}" for x in later)]
    )


def cost() -> str:
    """Time, memory and disk of the last complete mini run on this machine."""
    lines = ["| mini | seconds | peak memory, MB |\n|---|---|---|"]
    for path in sorted(files.run_dir("mini").glob("*.done.json")):
        about = json.loads(path.read_text())
        name = path.name.split(".")[0]
        lines.append(f"| {name} | {about['seconds']:.0f} | {about['peak_mb']} |")
    whole = files.run_dir("mini") / "cost.json"
    if whole.exists():
        about = json.loads(whole.read_text())
        lines.append(
            f"| all, side by side | {about['seconds']:.0f} | {about['peak_mb']} |"
        )
    names = ("mini-gpt2", "mini-qwen2")
    folders = [files.ROOT / "models" / name for name in names]
    disk = sum(p.stat().st_size for f in folders for p in f.glob("*") if p.is_file())
    return "\n".join([*lines, "", f"The mini models take {disk / 1e6:.0f} MB of disk."])


def bench() -> str:
    """The benchmark's table, its targets, and where a missed one's time goes."""
    folder = files.ROOT / "figures" / "bench"
    if not (folder / "targets.csv").exists():
        return "Not measured yet: `make bench`."
    kept = ("speed", "targets", "profile", "products")
    speed, targets, profile, products = (rows_of(folder / f"{n}.csv") for n in kept)
    about = json.loads((folder / "machine.json").read_text())
    rounds = dict.fromkeys(sorted((row["rounds"] for row in speed), key=int))
    lines = [
        f"{about['processor']}, {about['device']}, {about['threads']} threads, torch "
        f"{about['torch']}, transformers {about['transformers']}. Contestants take "
        f"turns, {' to '.join(rounds)} rounds of {speed[0]['steps']} steps; medians "
        "over rounds, 95 % intervals ([csv and picture](figures/bench/)).",
        "",
        "| shape | contestant | ms a step | tokens a second | times generate | "
        "peak memory, MB | share of copy bandwidth |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in speed:
        cells = [format_cell(row, "ms a step"), format_cell(row, "tokens a second", 0)]
        cells += [format_cell(row, "times generate"), format_cell(row, "peak mb", 0)]
        cells = [
            row["shape"],
            row["contestant"],
            *cells,
            format_cell(row, "bandwidth used"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| shape | target | wanted | measured | met |"]
    lines.append("|---|---|---|---|---|")
    for row in targets:
        cells = [
            row["shape"],
            row["target"],
            row["wanted"],
            format_cell(row, "measured"),
        ]
        lines.append(f"| {' | '.join([*cells, MET[row['met']]])} |")
    lines += ["", json.loads((folder / "speed.alt.json").read_text())["alt"]]
    for shape in dict.fromkeys(r["shape"] for r in targets if r["met"] == "False"):
        lines += ["", missed(shape, profile, products)]
    return "\n".join(lines)


def missed(shape: str, profile: list[dict], products: list[dict]) -> str:
    """Why a shape misses a target: where its steps' time goes, and what is left to win.

    Nothing is typed: the operators' shares, and the products alone both ways.
    """
    parts = [
        f"{row['operator']} {float(row['share']):.0%}"
        for row in profile
        if (row["shape"], row["contestant"]) == (shape, "ours")
    ]
    ways = [
        f"{row['way']}, {row['threads']} thread{'s' * (row['threads'] != '1')}, "
        f"{format_cell(row, 'ms', 1)} ms ({format_cell(row, 'gb a second', 0)} GB a "
        f"second)"
        for row in products
        if row["shape"] == shape
    ]
    said = f"Where ours spends its time on {shape}: {', '.join(parts[:4])}."
    if ways:
        said += (
            f" One row times all its weight matrices: {'; '.join(ways)}. Eager steps, "
            "like generate, call the library; compiled ones write sums."
        )
    return said


MET = {"True": "yes", "False": "no"}


def format_cell(row: dict, name: str, places: int = 2) -> str:
    """A cell of a csv, rounded; with its interval where the row has one for it."""
    if not row[name]:
        return ""
    shown = [f"{float(row[n]):.{places}f}" for n in (name, "low", "high") if row.get(n)]
    with_interval = name in ("times generate", "measured") and len(shown) == 3
    return f"{shown[0]} [{shown[1]}, {shown[2]}]" if with_interval else shown[0]


def rows_of(path: Path) -> list[dict]:
    """A csv file's rows, every cell a string; none where there is no file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


BLOCKS = {
    f.__name__: f
    for f in (badges, found, verdicts, reasons, citations, changes, cost, bench)
}
