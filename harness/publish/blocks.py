"""Write the generated blocks of README.md and docs/*.md, from figures/ and claims.csv.

    fill_blocks    a page's text with its blocks written anew
    BLOCKS         name -> function that writes the block
    keep_seeds     what other training seeds of mini gave -> models/seeds.csv
    keep_costs     what this machine's runs took -> figures/<set>/cost.json

A block stands between <!-- generated: name --> and <!-- end: name -->. Every writer
takes `up`, the way from the page's folder to the repository: "" or "../".
"""

import csv
import html
import json
import re
import subprocess
from pathlib import Path

import pandas as pd

from harness import claims, clauses, figures, files, judge, tables, wording
from harness.fingerprint import ACROSS

PAPER = "paper"  # the write-up's own models: a column even where they have not run
HEADLINES = ("R1", "R6", "I0", "I1", "I2", "N3")  # the claims that README opens with
COSTS = ("seconds", "cpu_seconds", "peak_mb")
SEEDS = "models/seeds.csv"
NOT_MEASURED = "Not measured yet."
STATUS = {  # of a claim -> how a tally speaks of those that it has
    "asserted": "asserted",
    "implied": "that its method implies",
    "ours": "of our own",
}


def fill_blocks(text: str, up: str = "") -> str:
    """`text` with every generated block written anew; ValueError for an unknown one."""

    def block(found: re.Match) -> str:
        name = found[1]
        if name not in BLOCKS:
            raise ValueError(f"generated block {name!r}: expected {', '.join(BLOCKS)}")
        body = BLOCKS[name](up).strip()
        return f"<!-- generated: {name} -->\n{body}\n<!-- end: {name} -->"

    shape = r"<!-- generated: (\w+) -->\n.*?<!-- end: \1 -->"
    return re.sub(shape, block, text, flags=re.DOTALL)


def plain(text: str) -> str:
    """Text for a Markdown table cell, whatever a model wrote into it."""
    text = html.escape(str(text), quote=False).replace("|", "\\|")
    return re.sub(r"([*_`])", r"\\\1", " ".join(text.split()))


def badges(up: str = "", citation: str | None = None) -> str:
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


def verdict_rows(set_name: str) -> dict[str, dict]:
    """The kept verdicts of a set by id; empty if it has not run."""
    rows = read_csv(files.ROOT / "figures" / set_name / "verdicts.csv")
    return {row["id"]: row for row in rows}


def shown_sets() -> list[str]:
    """The sets that have been run and judged, mini first."""
    return [name for name in files.set_folders() if verdict_rows(name)]


def measured_rows(set_name: str = "mini") -> list[dict]:
    """The kept verdicts of the claims that are measured, not cited."""
    rows = verdict_rows(set_name).values()
    return [row for row in rows if row["kind"] != "literature"]


def tally(rows: list[dict]) -> str:
    """How the claims that the write-up asserts come out; the others by number alone."""
    counted = {status: [r for r in rows if r["status"] == status] for status in STATUS}
    asserted = counted.pop("asserted")
    counts = {v: sum(r["verdict"] == v for r in asserted) for v in clauses.VERDICTS}
    said = ", ".join(f"{n} {verdict}" for verdict, n in counts.items() if n)
    others = " and ".join(f"{len(own)} {STATUS[s]}" for s, own in counted.items())
    return (
        f"Of {len(asserted)} claims that the write-up asserts and that can be "
        f"measured: {said}. Not counted: {others}."
    )


def headline(up: str = "") -> str:
    """How many claims hold on mini, and the results that matter most, with numbers."""
    rows = measured_rows()
    lines = [tally(rows), ""]
    for row in (r for r in rows if r["id"] in HEADLINES):
        link = f"{up}docs/results.md#{row['id'].lower()}"
        words = wording.verdict_words(row["id"], row["verdict"])
        lines.append(f"- **{words}** ([{row['id']}]({link})): {_finding(row)}")
    return "\n".join(lines) if rows else NOT_MEASURED


def sets(up: str = "") -> str:
    """The headline claims, a column a set that has been run."""
    names = shown_sets()
    kept = {name: verdict_rows(name) for name in names}
    rows = []
    for claim in (*HEADLINES, "R7") if names else ():
        link = f"[{claim}]({up}docs/results.md#{claim.lower()})"
        cells = [verdict_cell(claim, kept, name) for name in names]
        rows.append([link, plain(claims.claim_row(claim)["statement"]), *cells])
    return (
        markdown_table(["claim", "statement", *names], rows) if rows else NOT_MEASURED
    )


def differences(up: str = "") -> str:
    """Where verdicts differ between sets: each set's verdict and finding."""
    if len(shown_sets()) < 2:
        return "No other set than mini has been run."
    apart = tables.differing(tables.side_by_side())
    lines = []
    for claim in dict.fromkeys(claim for claim, _ in apart.index):
        own = apart.loc[claim]
        lines += [f"- {claim}: *{plain(own['statement'].iloc[0])}*"]
        lines += [
            f"  - {name}, **{row['verdict']}**: {plain(row['found'])}"
            for name, row in own.iterrows()
        ]
    return "\n".join(lines) or "No verdict differs between the sets that were run."


def _finding(row: dict) -> str:
    """What the write-up says, and the numbers that answer it."""
    return f"*{plain(row['statement'])}* {plain(row['found'] or row['reason'])}"


def found(up: str = "") -> str:
    """What was found on mini: by verdict, each claim and the numbers that answer it."""
    rows = measured_rows()
    lines = [tally(rows)] if rows else []
    for verdict in clauses.VERDICTS:
        named = [row for row in rows if row["verdict"] == verdict]
        if named:
            lines += ["", f"**{verdict.capitalize()}.**", ""]
        for row in named:
            anchor = f'<a id="{row["id"].lower()}"></a>'
            status = "" if row["status"] == "asserted" else f", {row['status']}"
            lines.append(f"- {anchor}{row['id']}{status}: {_finding(row)}")
    return "\n".join(lines) or NOT_MEASURED


def verdicts(up: str = "") -> str:
    """The verdict table, a column a set, with mini's number and where it comes from.

    The figures of other sets follow by the set's name.
    """
    names = shown_sets() or ["mini"]
    columns = [*names, *([PAPER] if PAPER not in names else [])]
    kept = {name: verdict_rows(name) for name in columns}
    shown = {name: figures.by_claim(name) for name in names}
    heads = ["claim", "statement", "status", *columns, "number on mini", "evidence"]
    rows = []
    for claim, spec in claims.claims().items():
        if spec["kind"] == "literature":
            continue
        words = [verdict_cell(claim, kept, name) for name in columns]
        notebook = f"[{claim}]({up}notebooks/{spec['notebook']}.ipynb)"
        own = shown.get("mini", {}).get(claim, [])
        files_of = {name: f"mini/{name}.png" for name in own}
        rows_file = f"mini/{spec['notebook']}.measured.csv"
        files_of = files_of or {"measured rows": rows_file}
        files_of |= {
            name: f"{name}/{shown[name][claim][0]}.png"
            for name in names
            if name != "mini" and claim in shown[name]
        }
        evidence = ", ".join(
            f"[{name}]({up}figures/{file})" for name, file in files_of.items()
        )
        number = format_number(kept["mini"].get(claim, {}))
        said = plain(spec["statement"]), spec["status"]
        rows.append([notebook, *said, *words, number, evidence])
    return markdown_table(heads, rows)


def verdict_cell(claim: str, kept: dict[str, dict[str, dict]], set_name: str) -> str:
    """A claim's verdict on a set, from the kept verdicts {set: {claim: row}}.

    What arithmetic over the original's published numbers decides, no model can change:
    computed with mini's run, it stands for a set that has not run as well. What
    notebook 08 asks is about all sets at once: it is said once, in mini's column.
    """
    row, spec = kept[set_name].get(claim), claims.claim_row(claim)
    if spec["notebook"] == ACROSS:
        words = row["verdict"] if row else "not tested"
        return f"{words}, across sets" if set_name == "mini" else ""
    unset = row is None or row["verdict"] == "not tested"
    if unset and spec["kind"] == "arithmetic":
        row = kept["mini"].get(claim)
    return wording.verdict_words(claim, row["verdict"] if row else "not tested")


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


def reasons(up: str = "") -> str:
    """Why each verdict is what it is, set by set."""
    lines = []
    for name in shown_sets():
        lines += ["", f"### {name}", ""]
        lines += [
            f"- **{row['id']} {wording.verdict_words(row['id'], row['verdict'])}**: "
            f"{plain(row['reason'])}"
            for row in measured_rows(name)
            if name == "mini" or claims.claim_row(row["id"])["notebook"] != ACROSS
        ]
    return "\n".join(lines)


def citations(up: str = "") -> str:
    """The write-up's method and citation claims against the sources, by hand."""
    columns = ["claim", "the write-up says", "the source says", "verdict"]
    rows = []
    for claim, spec in claims.claims().items():
        if spec["kind"] == "literature":
            verdict = judge.judge(claim, [], "mini").verdict
            says = f"{spec['statement']} ({spec['section']})"
            source = f"{spec['ceiling']}: {spec['measure']}"
            rows.append([claim, plain(says), plain(source), verdict])
    return markdown_table(columns, rows)


def changes(up: str = "") -> str:
    """Commits that touched claims.csv after its rules were first fixed."""
    git = ["git", "-C", str(files.ROOT), "log", "--reverse", "--format=%h %ad %s"]
    done = subprocess.run(
        [*git, "--date=short", "--", "claims.csv"], capture_output=True, text=True
    )
    first, *later = done.stdout.splitlines() or ["no history here"]
    return "\n".join(
        [f"- fixed first: {plain(first)}", *(f"- {plain(x)}" for x in later)]
    )


def cost(up: str = "") -> str:
    """Time and memory of each set's last run, a row a set, then mini's notebooks."""
    rows, notebooks = [], []
    for name in shown_sets():
        for notebook, used in _kept_costs(name).items():
            numbers = [f"{used[key]:.0f}" for key in COSTS if key in used]
            numbers += ["?"] * (len(COSTS) - len(numbers))
            if notebook == "all":
                rows.append([name, *numbers])
            elif name == "mini":
                notebooks.append([notebook.split("_")[0], *numbers])
    names = ("mini-gpt2", "mini-qwen2")
    folders = [files.ROOT / "models" / name for name in names]
    disk = sum(p.stat().st_size for f in folders for p in f.glob("*") if p.is_file())
    heads = ["seconds", "processor seconds", "peak memory, MB"]
    by_set = markdown_table(["set", *heads], rows)
    by_notebook = markdown_table(["notebook on mini", *heads], notebooks)
    said = f"The mini models take {disk / 1e6:.0f} MB of disk."
    return f"{by_set}\n\n{by_notebook}\n\n{said}"


def sweep_cost(up: str = "") -> str:
    """What a hundred models like each set's take: 100 times its processor time."""
    rows = []
    for name in shown_sets():
        about = _kept_costs(name)
        if used := about.pop("all", {}):
            hours = f"{100 * used['cpu_seconds'] / 3600:.0f}"
            ran = ", ".join(sorted(notebook.split("_")[0] for notebook in about))
            rows.append([name, ran, _dtypes(name), hours, f"{used['peak_mb']:.0f}"])
    heads = ["models like", "notebooks", "dtype", "hours of one core"]
    return markdown_table([*heads, "peak memory, MB"], rows)


def _dtypes(set_name: str) -> str:
    """In which dtypes a set's models ran; where in several, by notebook."""
    ran: dict[str, list[str]] = {}
    for path in sorted(files.figures_dir(set_name).glob("??_provenance.json")):
        models = json.loads(path.read_text(encoding="utf-8"))["models"].values()
        for dtype in sorted({model["dtype"] for model in models}):
            ran.setdefault(dtype, []).append(path.name[:2])
    if len(ran) == 1:
        return next(iter(ran))
    return "; ".join(f"{dtype}: {', '.join(books)}" for dtype, books in ran.items())


def _kept_costs(set_name: str) -> dict[str, dict]:
    """What `keep_costs` kept of a set's runs; nothing where it has not run."""
    path = files.ROOT / "figures" / set_name / "cost.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def keep_costs() -> None:
    """Keep what the runs of this machine took, in figures/<set>/cost.json.

    Notebook -> seconds, cpu_seconds, peak_mb; "all": of the whole run, or where it was
    made in pieces, one notebook after the other, their sum and the highest peak.
    """
    for name in files.set_folders():
        runs, about = files.run_dir(name), {}
        for path in sorted(runs.glob("*.done.json")):
            done = json.loads(path.read_text(encoding="utf-8"))
            used = {key: done[key] for key in COSTS if key in done}
            about[path.name.removesuffix(".done.json")] = used
        if not about:
            continue
        whole = {
            key: (max if key == "peak_mb" else sum)(
                used[key] for used in about.values()
            )
            for key in COSTS
            if all(key in used for used in about.values())
        }
        if (runs / "cost.json").exists():
            whole |= json.loads((runs / "cost.json").read_text(encoding="utf-8"))
        text = json.dumps({"all": whole} | about, indent=1) + "\n"
        files.write_whole(files.figures_dir(name) / "cost.json", text)


def keep_seeds() -> None:
    """Keep the verdicts of figures/mini-seed<N>/, where they were run, in SEEDS.

    `make seeds` makes them; neither those weights nor their figures are committed.
    """
    kept = []
    for folder in sorted((files.ROOT / "figures").glob("mini-seed*")):
        if found := files.SEED.fullmatch(folder.name):
            run = {path.name.split(".")[0] for path in folder.glob("*.measured.csv")}
            rows = [r for r in measured_rows(folder.name) if r["notebook"] in run]
            kept += [row | {"seed": found[1]} for row in rows]  # of training
    if kept:
        columns = ["seed", "id", "verdict", "part", "cell", "value", "low", "high", "n"]
        text = pd.DataFrame(kept)[columns].to_csv(index=False, lineterminator="\n")
        files.write_whole(files.ROOT / SEEDS, text)


def seeds(up: str = "") -> str:
    """The verdicts of mini beside those of models trained with other seeds."""
    by_seed = {"0": verdict_rows("mini")}
    for row in read_csv(files.ROOT / SEEDS):
        by_seed.setdefault(row["seed"], {})[row["id"]] = row
    if len(by_seed) < 2:
        return "Not measured yet: `make seeds`."
    rows, alike = [], 0
    for claim in by_seed["0"]:
        found = [kept[claim] for kept in by_seed.values() if claim in kept]
        if len(found) < len(by_seed):
            continue
        alike += len({row["verdict"] for row in found}) == 1
        words = [wording.verdict_words(claim, row["verdict"]) for row in found]
        number = ""
        if len({(row["part"], row["cell"]) for row in found}) == 1 and found[0]["part"]:
            ranges = [f"{r['value']} [{r['low']}, {r['high']}]" for r in found]
            number = plain(f"{found[0]['part'].replace('_', ' ')}: {'; '.join(ranges)}")
        rows.append([claim, *words, number])
    heads = ["claim", *(f"seed {seed}" for seed in by_seed), "number, seed by seed"]
    said = f"{alike} of {len(rows)} claims have the same verdict with every seed."
    return f"{said}\n\n{markdown_table(heads, rows)}"


def bench(up: str = "") -> str:
    """The benchmark's table, its targets, and where a missed one's time goes."""
    folder = files.ROOT / "figures" / "bench"
    if not (folder / "targets.csv").exists():
        return "Not measured yet: `make bench`."
    names = ("speed", "targets", "profile", "products")
    speed, targets, profile, products = (read_csv(folder / f"{n}.csv") for n in names)
    about = json.loads((folder / "machine.json").read_text(encoding="utf-8"))
    rounds = dict.fromkeys(sorted((row["rounds"] for row in speed), key=int))
    columns = ["shape", "contestant", "ms a step", "tokens a second", "times generate"]
    places = {"ms a step": 2, "tokens a second": 0, "times generate": 2, "peak mb": 0}
    places["bandwidth used"] = 2
    speeds = [
        [row["shape"], row["contestant"]]
        + [format_cell(row, name, digits) for name, digits in places.items()]
        for row in speed
    ]
    wanted = [
        [row["shape"], row["target"], row["wanted"], format_cell(row, "measured")]
        + ["yes" if row["met"] == "True" else "no"]
        for row in targets
    ]
    blocks = [
        f"{about['processor']}, {about['device']}, {about['threads']} threads, torch "
        f"{about['torch']}, transformers {about['transformers']}. Contestants take "
        f"turns, {' to '.join(rounds)} rounds of {speed[0]['steps']} steps; medians "
        f"over rounds, 95 % intervals ([csv and picture]({up}figures/bench/)).",
        markdown_table(
            [*columns, "peak memory, MB", "share of copy bandwidth"], speeds
        ),
        markdown_table(["shape", "target", "wanted", "measured", "met"], wanted),
        json.loads((folder / "speed.alt.json").read_text(encoding="utf-8"))["alt"],
    ]
    short = dict.fromkeys(row["shape"] for row in targets if row["met"] == "False")
    return "\n\n".join(blocks + [missed(shape, profile, products) for shape in short])


def lm_eval(up: str = "") -> str:
    """What lm-evaluation-harness gave, by model and rule, and what it cost."""
    folder = files.ROOT / "integrations" / "lm_eval"
    rows = [
        [path.stem, row["rule"].replace("_", " ")]
        + ["{right} [{low}, {high}]".format(**row)]
        + ["{over_generate} [{over_low}, {over_high}]".format(**row)]
        + [row[name] for name in ("n", "tokens", "calls", "cpu_seconds")]
        for path in sorted(folder.glob("*.csv"))
        for row in read_csv(path)
        if "over_generate" in row
    ]
    columns = ["model", "rule", "share right", "over generate", "questions"]
    columns += ["new tokens", "forward calls", "processor seconds"]
    return markdown_table(columns, rows) if rows else NOT_MEASURED


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


def format_cell(row: dict, name: str, places: int = 2) -> str:
    """A cell of a csv, rounded; with its interval where the row has one for it."""
    if not row[name]:
        return ""
    shown = [f"{float(row[n]):.{places}f}" for n in (name, "low", "high") if row.get(n)]
    with_interval = name in ("times generate", "measured") and len(shown) == 3
    return f"{shown[0]} [{shown[1]}, {shown[2]}]" if with_interval else shown[0]


def markdown_table(columns: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; its cells are written as they are."""
    lines = [f"| {' | '.join(row)} |" for row in (columns, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(columns), *lines[1:]])


def read_csv(path: Path) -> list[dict]:
    """The rows of a csv file, every cell a string; none where there is no file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


WRITERS = (badges, headline, sets, found, differences, verdicts, reasons, citations)
WRITERS += (changes, cost, sweep_cost, seeds, bench, lm_eval)
BLOCKS = {writer.__name__: writer for writer in WRITERS}
