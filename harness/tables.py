from pathlib import Path

import pandas as pd

from harness import files, safe_text, summaries
from harness.claims import NUMBERS, claim_row, claims, read_rows
from harness.judge import judge


def verdict_frame(rows: list[dict], set: str, ids=None, why=None) -> pd.DataFrame:
    """One row a claim. `why`: notebook -> reason, for claims that have no rows."""
    kept = ("section", "notebook", "kind", "paper_value", "statement")
    out = []
    for id in ids or claims():
        spec, judged = claim_row(id), judge(id, rows, set)
        reason = judged.reason
        if reason == "not measured":
            reason = (why or {}).get(spec["notebook"], reason)
        part, seeds = judged.part, {r["seed"] for r in rows if r["claim"] == id}
        numbers = {"part": judged.name} | {k: getattr(part, k) for k in NUMBERS}
        numbers["n"] = part.n or None
        seed = ", ".join(sorted(str(s) for s in seeds if s != ""))
        head = {"id": id, "verdict": judged.verdict, "reason": reason}
        tail = {"seed": seed, "cell": judged.cell, "set": set}
        found = (
            summaries.summary_sentence(id, rows)
            if judged.verdict != "not tested"
            else ""
        )
        more = {k: spec[k] for k in kept} | {"found": found}
        out.append(head | numbers | tail | more)
    return pd.DataFrame(out).astype({"n": "Int64"})


def gather(set: str, run_dir: str = "", failed: dict | None = None) -> pd.DataFrame:
    """Judge every claim from all rows at hand: this run's, else figures/<set>/'s.

    `failed`: notebook -> why it could not be run, which its claims then say.
    """
    rows, why = [], dict(failed or {})
    for notebook in dict.fromkeys(row["notebook"] for row in claims().values()):
        if not notebook or notebook in why:
            continue
        path = find_rows(notebook, set, run_dir)
        if path:
            rows += read_rows(path)
        else:
            written = (files.ROOT / "notebooks" / f"{notebook}.ipynb").exists()
            state = f"has not finished on {set}" if written else "is not written"
            why[notebook] = f"notebook {notebook} {state}"
    return verdict_frame(rows, set, why=why)


def find_rows(notebook: str, set: str, run_dir: str = "") -> Path | None:
    """A notebook's measured rows: of this run, else the ones kept with the figures."""
    name = f"{notebook}.measured.csv"
    folders = (files.run_dir(set, run_dir), files.figures_dir(set), files.kept_dir(set))
    places = (folder / name for folder in folders)
    return next((path for path in places if path.exists()), None)


def display_verdict(rows: list[dict], set: str, *ids: str) -> None:
    """Display verdict and finding of claims, from the rows measured so far."""
    from html import escape

    from IPython.display import HTML, display

    frame = verdict_frame(rows, set, ids)
    lines = [
        f"<p><b>{row.id}, {row.verdict}:</b> "
        f"{escape(row.found or row.reason.removeprefix('not tested '))}</p>"
        for row in frame.itertuples()
    ]
    display(HTML(safe_text.escape_invisible("\n".join(lines))))


def display_table(notebook: str, set: str, run_dir: str = "") -> None:
    """Print verdict words, display reasons: a notebook's claims, or ("") all."""
    from IPython.display import HTML, display

    frame = gather(set, run_dir)
    if notebook:
        frame = frame[frame["notebook"] == notebook]
    print("\n".join(f"{row.id}  {row.verdict}" for row in frame.itertuples()))
    with pd.option_context("display.max_colwidth", None):
        columns = ["id", "statement", "verdict", "found", "reason"]
        html = frame[columns].to_html(index=False, escape=True)
    display(HTML(safe_text.escape_invisible(html)))
