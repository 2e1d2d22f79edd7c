"""Build the site: what was found, the evidence for each claim, a page a notebook.

    python -m harness.publish.site --set mini     site/, whole, or as it was before

Made from the executed notebooks of a set (runs/<set>/, or for mini the committed ones
where that run is absent or older than the figures) and from figures/<set>/. Other
sets that lie in figures/ stand beside it, claim by claim, with figures and pages of
their own. Plain HTML and one style sheet: no script, no request to anywhere, readable
from file://.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import jinja2

from harness import (
    claims,
    clauses,
    files,
    fingerprint,
    judge,
    safe_text,
    tables,
    wording,
)
from harness.publish.notebook_html import (
    Book,
    Picture,
    read_book,
    read_picture,
    render_cells,
)

PAGE = Path(__file__).parent / "page"
MARK = ".made-by-make-site"
NUMBERS = ("value", "low", "high")
STATUS = {  # the column of claims.csv, in words
    "asserted": "The write-up asserts it.",
    "implied": "The write-up's method implies it.",
    "ours": "A question of our own, not a claim of the write-up.",
}


def build(set_name: str = "mini", out: str | Path = files.ROOT / "site") -> Path:
    """Write the site of a model set to `out` and return its index.

    FileNotFoundError where the set has no verdicts or no executed notebook; ValueError
    where `out` holds something that this function did not write.
    """
    out = Path(out).resolve()
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise ValueError(f"{out.name}/ is not a site made by `make site`: move it away")
    sets = [read_set(set_name)]
    if not sets[0].books:
        raise FileNotFoundError(
            f"no executed notebook of {set_name}: run make reproduce SET={set_name}"
        )
    sets += [
        read_set(name, f"{name}.")
        for name, folder in files.set_folders().items()
        if name != set_name and folder.parent == sets[0].kept.parent
        if (folder / "verdicts.csv").exists()
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=".site."))
    try:
        write_site(aside, sets)
        aside.chmod(0o755)
        _put_in_place(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return out / "index.html"


@dataclass(frozen=True)
class SetResults:
    """What is kept of a model set. prefix: of its pages; "" for the site's own set."""

    name: str
    prefix: str
    kept: Path
    verdicts: list[dict]
    judged: dict[str, judge.Judged]
    pictures: dict[str, Picture]
    books: list[Book]

    def place(self, folder: str) -> str:
        """A folder of the site: "data" or "figures", or the set's own inside it."""
        return f"{folder}/{self.name}" if self.prefix else folder


def read_set(set_name: str, prefix: str = "") -> SetResults:
    """Read a set's verdicts, figures and executed notebooks; errors as of build."""
    kept = files.set_folders().get(set_name, files.figures_dir(set_name))
    verdicts = read_table(kept / "verdicts.csv")
    if not verdicts:
        raise FileNotFoundError(
            f"figures/{set_name}/verdicts.csv is not there: run make reproduce "
            f"SET={set_name}"
        )
    judged = judge_again(set_name, kept)
    folder = f"figures/{set_name}" if prefix else "figures"
    pngs = sorted(kept.glob("[0-9]*.png"))
    pictures = {path.stem: read_picture(path, folder) for path in pngs}
    claim_ids = [row["id"] for row in verdicts]
    books = [
        read_book(path, origin, pictures.values(), claim_ids, prefix)
        for path, origin in executed_notebooks(set_name)
    ]
    return SetResults(set_name, prefix, kept, verdicts, judged, pictures, books)


def _put_in_place(aside: Path, out: Path) -> None:
    """Rename `aside` to `out`; what was there goes, or comes back on an error."""
    if not out.exists():
        os.replace(aside, out)
        return
    old = Path(tempfile.mkdtemp(dir=out.parent, prefix=".site."))
    os.replace(out, old / "old")
    try:
        os.replace(aside, out)
    except BaseException:
        os.replace(old / "old", out)
        raise
    finally:
        shutil.rmtree(old)


def judge_again(set_name: str, kept: Path) -> dict[str, judge.Judged]:
    """Judge every claim from the kept rows; ValueError unless verdicts.csv agrees."""
    tables.check_kept(set_name, kept)
    paths = sorted(kept.glob("[0-9]*.measured.csv"))
    rows = [row for path in paths for row in claims.read_rows(path)]
    return {claim: judge.judge(claim, rows, set_name) for claim in claims.claims()}


def read_table(path: Path) -> list[dict]:
    """The rows of a csv with the line each stands on; none where there is no file."""
    name = f"{path.parent.name}/{path.name}"
    return files.read_table(path, name, []) if path.exists() else []


def executed_notebooks(set_name: str) -> list[tuple[Path, str]]:
    """The executed notebooks of a set, each with the folder it was taken from."""
    found = {}
    root, kept = files.output_root(), files.set_folders().get(set_name)
    for path in kept.glob("[0-9][0-9]_*.ipynb") if kept else ():
        found[path.name] = (path, f"figures/{set_name}/")
    if set_name == "mini":
        for path in fingerprint.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"):
            counts = [
                c.get("execution_count") for c in fingerprint.notebook_cells(path)
            ]
            if any(counts):
                found[path.name] = (path, "notebooks/")
    for path in files.run_dir(set_name).glob("[0-9][0-9]_*.ipynb"):
        try:  # its figures may have been replaced since: then it is not their notebook
            done = json.loads(path.with_suffix(".done.json").read_text())["outputs"]
            if all(files.digest(root / place) == done[place] for place in done):
                found[path.name] = (path, f"runs/{set_name}/")
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return [found[name] for name in sorted(found)]


def write_site(folder: Path, sets: list[SetResults]) -> None:
    """Write every page, figure and csv of the site; its own set comes first."""
    for one in sets:
        copy_files(folder, one)
    for path in (PAGE / "style.css", files.ROOT / "claims.csv"):
        place = folder if path.suffix == ".css" else folder / "data"
        shutil.copyfile(path, place / path.name)

    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    env.filters["number"] = format_number
    env.filters["css"] = lambda verdict: verdict.replace(":", "").replace(" ", "-")
    own, *others = sets
    entries, beside = claim_entries(own), [claim_entries(other) for other in others]
    for entry in entries:
        across = (
            entry["notebook"] == fingerprint.ACROSS or entry["kind"] == "literature"
        )
        entry["others"] = [
            row
            for rows in beside
            for row in rows
            if row["id"] == entry["id"] and not across
        ]
    common = {
        "books": own.books,
        "other_sets": others,
        "claims": entries,
        "pictures": own.pictures,
        "verdicts": clauses.VERDICTS,
        "meanings": STATUS,
    }
    pages = {"index.html", "claims.html"}
    pages |= {book.page for one in sets for book in one.books}

    def write_page(name: str, template: str, one: SetResults, **more: object) -> None:
        about = {"set_name": one.name, "models": model_lines(one.kept, one.books)}
        text = env.get_template(template).render(common | about | more | {"page": name})
        (folder / name).write_text(safe_text.escape_invisible(text), encoding="utf-8")

    write_page("index.html", "index.html.j2", own)
    write_page("claims.html", "claims.html.j2", own)
    for one in sets:
        for book in one.books:
            cells = render_cells(book, pages, one.pictures)
            more = {"book": book, "made": provenance(one.kept, book), "body": cells}
            data = one.place("data")
            write_page(book.page, "notebook.html.j2", one, data=data, **more)
    (folder / MARK).write_text("make site replaces this folder as a whole\n")


def copy_files(folder: Path, one: SetResults) -> None:
    """Copy a set's figures, rows, verdicts and provenance into the site."""
    figures, data = folder / one.place("figures"), folder / one.place("data")
    figures.mkdir(parents=True, exist_ok=True)
    data.mkdir(parents=True, exist_ok=True)
    for name in one.pictures:
        for kind in (".png", ".svg", ".csv"):
            if (one.kept / f"{name}{kind}").exists():
                shutil.copyfile(one.kept / f"{name}{kind}", figures / f"{name}{kind}")
    kept = [*one.kept.glob("*verdicts.csv"), *one.kept.glob("*.measured.csv")]
    for path in [*kept, *one.kept.glob("*_provenance.json")]:
        shutil.copyfile(path, data / path.name)


def claim_entries(one: SetResults) -> list[dict]:
    """Each claim with its verdict, reasons, test, rows, figures and notebook cells."""
    specs = {row["id"]: row for row in read_table(files.ROOT / "claims.csv")}
    by_name = {book.name: book for book in one.books}
    anchors = {n: f"{b.page}#{at}" for b in one.books for n, at in b.figures.items()}
    out = []
    for row in one.verdicts:
        claim, book = row["id"], by_name.get(row["notebook"])
        name = f"{row['notebook']}.measured.csv"
        rows = read_table(one.kept / name)
        own = [p for p in one.pictures.values() if claim in p.claims]
        more = {
            "words": wording.verdict_words(claim, row["verdict"]),
            "found": row.get("found", ""),
            "reasons": [("", [row["reason"]])],
            "test": specs.get(claim, {}),
            "book": book,
            "place": book.claims.get(claim, 0) if book else 0,
            "rows": [r for r in rows if r["claim"] == claim],
            "figures": [(p, anchors.get(p.name, f"{p.file}.png")) for p in own],
            "data": one.place("data"),
        }
        if one.judged[claim].cells:  # else it has one reason, which is in verdicts.csv
            more["reasons"] = wording.reason_groups(one.judged[claim])
        out.append(row | more)
    return out


def format_number(row: dict) -> str:
    """'0.71 (95 % interval 0.65 to 0.77), n = 62' of a row, or nothing."""
    if not row.get("value"):
        return ""
    value, low, high = (f"{float(row[key]):.4g}" for key in NUMBERS)
    interval = "" if low == high else f" (95 % interval {low} to {high})"
    return f"{value}{interval}, n = {float(row['n']):.0f}"


def provenance(kept: Path, book: Book) -> dict:
    """Read what a notebook's figures were made from, and what has changed since."""
    path = kept / f"{book.name.split('_')[0]}_provenance.json"
    if not path.exists():
        return {}
    made = json.loads(path.read_text(encoding="utf-8")) | {"file": path.name}
    source = fingerprint.NOTEBOOKS / f"{book.name}.ipynb"
    now = fingerprint.notebook_inputs(source) if source.exists() else {}
    hashes = made.get("hashes", {})
    made["changed"] = sorted(k for k in hashes if now and hashes[k] != now.get(k))
    return made


def model_lines(kept: Path, books: list[Book]) -> list[str]:
    """Names of the models that the set was run on, by their provenance."""
    made = (provenance(kept, book).get("models", {}).values() for book in books)
    return list(dict.fromkeys(model["name"] for each in made for model in each))


def main(argv: list[str] | None = None) -> int:
    """Build the site; a user's mistake or a full disk ends in one line."""
    top = argparse.ArgumentParser(
        prog="python -m harness.publish.site",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top.add_argument("--set", default="mini")
    top.add_argument("--out", default=str(files.ROOT / "site"))
    args = top.parse_args(argv)
    try:
        index = build(files.check_set_name(args.set), args.out)
    except (ValueError, OSError) as error:
        text = getattr(error, "strerror", None) or str(error)
        print(f"error: {text}".replace("\n", " "), file=sys.stderr)
        return 2
    pages = len([*index.parent.glob("*.html")])
    print(f"{index.parent.name}/index.html: {pages} pages, open it in a browser")
    return 0


if __name__ == "__main__":
    sys.exit(main())
