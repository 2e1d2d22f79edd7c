"""The site: what was found, the evidence for each claim, and a page a notebook.

    python -m harness.publish.site --set mini     site/, whole, or as it was before

Made from the executed notebooks of a set (runs/<set>/, or for mini the committed ones
where that run is absent or older than the figures) and from figures/<set>/. Plain HTML
and one style sheet: no script, no request to anywhere, readable from file://.
"""

import argparse
import csv
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import jinja2

from harness import claims, clauses, files, fingerprint, judge, safe_text
from harness.publish.notebook_html import Book, Picture, body, picture, read_book

PAGE = Path(__file__).parent / "page"
MARK = ".made-by-make-site"
NUMBERS = ("value", "low", "high")


def build(set: str = "mini", out: str | Path = files.ROOT / "site") -> Path:
    """Write the site of a set to `out` and return its index.

    FileNotFoundError where the set has no verdicts or no executed notebook; ValueError
    where `out` holds something that this function did not write.
    """
    out = Path(out).resolve()
    if out.exists() and any(out.iterdir()) and not (out / MARK).exists():
        raise ValueError(f"{out.name}/ is not a site made by `make site`: move it away")
    kept = files.figures_dir(set)
    verdicts = read_table(kept / "verdicts.csv")
    if not verdicts:
        raise FileNotFoundError(
            f"figures/{set}/verdicts.csv is not there: run make reproduce SET={set}"
        )
    judged_anew(set, verdicts)
    pictures = {p.stem: picture(p) for p in sorted(kept.glob("[0-9]*.png"))}
    ids = [row["id"] for row in verdicts]
    books = [
        read_book(path, origin, [*pictures.values()], ids)
        for path, origin in executed(set)
    ]
    if not books:
        raise FileNotFoundError(
            f"no executed notebook of {set}: run make reproduce SET={set}"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=".site."))
    try:
        write_site(aside, set, verdicts, books, pictures)
        aside.chmod(0o755)
        if out.exists():
            old = Path(tempfile.mkdtemp(dir=out.parent, prefix=".site."))
            os.replace(out, old / "old")
            try:
                os.replace(aside, out)
            except BaseException:
                os.replace(old / "old", out)
                raise
            finally:
                shutil.rmtree(old)
        else:
            os.replace(aside, out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return out / "index.html"


def judged_anew(set: str, verdicts: list[dict]) -> None:
    """ValueError unless verdicts.csv is what the kept rows give by the rules of now."""
    from harness import claims

    rows = [
        row
        for path in sorted(files.figures_dir(set).glob("*.measured.csv"))
        for row in claims.read_rows(path)
    ]
    now = {id: judge.judge(id, rows, set).verdict for id in claims.claims()}
    if {row["id"]: row["verdict"] for row in verdicts} != now:
        raise ValueError(
            f"figures/{set}/verdicts.csv is not what its rows give by claims.csv: run "
            f"make reproduce SET={set}"
        )


def read_table(path: Path) -> list[dict]:
    """The rows of a csv with the line each stands on; none where there is no file."""
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        reader, rows, line = csv.DictReader(file), [], 2
        for row in reader:
            rows.append(row | {"line": line})
            line = reader.line_num + 1
    return rows


def executed(set: str) -> list[tuple[Path, str]]:
    """The executed notebooks of a set, each with the folder it was taken from."""
    found = {}
    root = Path(os.environ.get("REPRODUCE_OUT", files.ROOT))
    if set == "mini":
        for path in fingerprint.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb"):
            counts = [
                c.get("execution_count") for c in fingerprint.notebook_cells(path)
            ]
            if any(counts):
                found[path.name] = (path, "notebooks/")
    for path in files.run_dir(set).glob("[0-9][0-9]_*.ipynb"):
        try:  # its figures may have been replaced since: then it is not their notebook
            done = json.loads(path.with_suffix(".done.json").read_text())["outputs"]
            if all(files.digest(root / place) == done[place] for place in done):
                found[path.name] = (path, f"runs/{set}/")
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return [found[name] for name in sorted(found)]


def write_site(
    folder: Path,
    set: str,
    verdicts: list[dict],
    books: list[Book],
    pictures: dict[str, Picture],
) -> None:
    """Write every page, figure and csv of the site into `folder`."""
    kept = files.figures_dir(set)
    (folder / "figures").mkdir()
    (folder / "data").mkdir()
    for name in pictures:
        for kind in (".png", ".svg", ".csv"):
            shutil.copyfile(
                kept / f"{name}{kind}", folder / "figures" / f"{name}{kind}"
            )
    data = [*kept.glob("*verdicts.csv"), *kept.glob("*.measured.csv")]
    for path in [*data, *kept.glob("*_provenance.json"), files.ROOT / "claims.csv"]:
        shutil.copyfile(path, folder / "data" / path.name)
    shutil.copyfile(PAGE / "style.css", folder / "style.css")

    env = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PAGE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    env.filters |= {"number": format_number, "reasons": reasons}
    common = {
        "set": set,
        "books": books,
        "claims": claims(set, verdicts, books, pictures),
        "pictures": pictures,
        "models": model_lines(kept, books),
        "verdicts": clauses.VERDICTS,
    }
    pages = {"index.html", "claims.html", *(book.page for book in books)}

    def page(name, template, **more):
        text = env.get_template(template).render(common | more | {"page": name})
        (folder / name).write_text(safe_text.escape_invisible(text), encoding="utf-8")

    page("index.html", "index.html.j2")
    page("claims.html", "claims.html.j2")
    for book in books:
        page(
            book.page,
            "notebook.html.j2",
            book=book,
            made=provenance(kept, book),
            body=body(book, pages, pictures),
        )
    (folder / MARK).write_text("make site replaces this folder as a whole\n")


def claim_entries(
    set: str, verdicts: list[dict], books: list[Book], pictures: dict[str, Picture]
) -> list[dict]:
    """Each claim with its verdict, test, rows, figures and places in the notebooks."""
    specs = {row["id"]: row for row in read_table(files.ROOT / "claims.csv")}
    by_name = {book.name: book for book in books}
    anchors = {n: f"{b.page}#{at}" for b in books for n, at in b.figures.items()}
    out = []
    for row in verdicts:
        id, book = row["id"], by_name.get(row["notebook"])
        rows = read_table(files.figures_dir(set) / f"{row['notebook']}.measured.csv")
        own = [p for p in pictures.values() if id in p.claims]
        more = {
            "found": row.get("found", ""),
            "test": specs.get(id, {}),
            "book": book,
            "place": book.claims.get(id, 0) if book else 0,
            "rows": [r for r in rows if r["claim"] == id],
            "figures": [(p, anchors.get(p.name, f"figures/{p.name}.png")) for p in own],
        }
        out.append(row | more)
    return out


def format_number(row: dict) -> str:
    """'0.71 (95 % interval 0.65 to 0.77), n = 62' of a row, or nothing."""
    if not row.get("value"):
        return ""
    value, low, high = (f"{float(row[key]):.4g}" for key in NUMBERS)
    interval = "" if low == high else f" (95 % interval {low} to {high})"
    return f"{value}{interval}, n = {float(row['n']):.0f}"


def reasons(claim: dict) -> list[tuple[str, list[str]]]:
    """A reason as (cell, clauses) pairs; the cell is "" where it speaks of them all."""
    if claim["kind"] == "literature":
        return [("", [claim["reason"]])]
    cells, out = {row["cell"] for row in claim["rows"]}, [("", [])]
    for clause in claim["reason"].split("; "):
        cell, colon, rest = clause.partition(": ")
        if colon and cell in cells:
            out.append((cell, []))
            clause = rest
        out[-1][1].append(clause)
    return [pair for pair in out if pair[1]]


def provenance(kept: Path, book: Book) -> dict:
    """What a notebook's figures were made from, and what has changed since."""
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
    """Names of the models that the set was run on, as their provenance tells."""
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
