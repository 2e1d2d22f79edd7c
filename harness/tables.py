"""Verdict tables: every claim of a model set with its verdict, number and reason.

verdict_frame      measured rows -> one row a claim, as verdicts.csv has them
check_kept         the same, compared with verdicts.csv cell by cell
gather             the same, from the rows that every notebook of a set has kept
side_by_side       every claim on every set that was run, one row a claim and set
differing          of these, the claims whose verdicts are not the same on all sets
display_verdict    verdict and finding of claims, in a notebook
display_table      the verdicts of a whole notebook, its last output
"""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import pandas as pd

from harness import files, fingerprint, outputs, safe_text, summaries, wording
from harness.claims import NUMBERS, claim_row, claims, read_rows
from harness.judge import NOT_MEASURED, judge

# of claims.csv
KEPT = ("section", "notebook", "kind", "status", "paper_value", "statement")


def verdict_frame(
    rows: list[dict],
    set_name: str,
    claim_ids: Iterable[str] = (),
    why_unmeasured: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Judge claims (all if none are named): one row a claim.

    why_unmeasured: notebook -> reason, for its claims that have no rows.
    """
    out = []
    for claim in claim_ids or claims():
        spec, own = claim_row(claim), [r for r in rows if r["claim"] == claim]
        why = (why_unmeasured or {}).get(spec["notebook"], NOT_MEASURED)
        judged = judge(claim, own, set_name, why)
        tested = judged.verdict != "not tested"
        seeds = {str(row["seed"]) for row in own} - {""}
        row = {"id": claim, "verdict": judged.verdict}
        row |= {"reason": wording.reason_text(judged), "part": judged.part}
        row |= {key: getattr(judged.measured, key) for key in NUMBERS}
        row |= {"n": judged.measured.n or None, "seed": ", ".join(sorted(seeds))}
        row |= {"cell": judged.cell, "set": set_name} | {key: spec[key] for key in KEPT}
        row["found"] = summaries.summary_sentence(claim, own) if tested else ""
        out.append(row)
    return pd.DataFrame(out).astype({"n": "Int64"})


def gather(
    set_name: str,
    run_dir: str = "",
    failed: Mapping[str, str] | None = None,
    folders: Sequence[Path] = (),
) -> pd.DataFrame:
    """Judge every claim from all rows at hand: this run's, else figures/<set>/'s.

    failed: notebook -> why it could not be run, which its claims then say. folders: by
    the rows in these only.
    """
    rows, why = [], dict(failed or {})
    own = files.run_dir(set_name, run_dir), files.figures_dir(set_name)
    folders = folders or own
    for notebook in dict.fromkeys(row["notebook"] for row in claims().values()):
        if not notebook or notebook in why:
            continue
        path = find_rows(notebook, *folders)
        if path:
            rows += read_rows(path)
        else:
            written = (files.ROOT / "notebooks" / f"{notebook}.ipynb").exists()
            state = f"has not finished on {set_name}" if written else "is not written"
            why[notebook] = f"notebook {notebook} {state}"
    return verdict_frame(rows, set_name, why_unmeasured=why)


def side_by_side(folders: Mapping[str, Path] | None = None) -> pd.DataFrame:
    """Judge the measured claims on every set: verdict_frame's rows of each.

    folders: set -> its folder, by default those of figures/. Left out are the claims of
    notebook 08, which are about all sets at once.
    """
    frames = []
    own = [
        claim
        for claim, row in claims().items()
        if row["kind"] != "literature" and row["notebook"] != fingerprint.ACROSS
    ]
    for set_name, folder in (folders or files.set_folders()).items():
        paths = sorted(Path(folder).glob("[0-9]*.measured.csv"))
        rows = [row for path in paths for row in read_rows(path)]
        frames.append(verdict_frame(rows, set_name, own))
    return pd.concat(frames, ignore_index=True)


def differing(beside: pd.DataFrame) -> pd.DataFrame:
    """The rows of claims whose verdicts differ among the sets they were tested on.

    beside: of side_by_side. -> by id and set: verdict, statement and found, which is
    the reason where there is no finding.
    """
    tested = beside[beside["verdict"] != "not tested"]
    kinds = tested.groupby("id")["verdict"].nunique()
    rows = beside[beside["id"].map(kinds).fillna(0) > 1]
    rows = rows.assign(found=rows["found"].where(rows["found"] != "", rows["reason"]))
    order = {claim: k for k, claim in enumerate(claims())}
    by_claim = rows.sort_values("id", key=lambda c: c.map(order), kind="stable")
    return by_claim.set_index(["id", "set"])[["verdict", "statement", "found"]]


def find_rows(notebook: str, *folders: Path) -> Path | None:
    """The file of a notebook's measured rows, in the first folder that has it."""
    places = (folder / f"{notebook}.measured.csv" for folder in folders)
    return next((path for path in places if path.exists()), None)


def to_text(frame: pd.DataFrame) -> str:
    """The text of verdicts.csv."""
    return frame.to_csv(index=False, float_format="%.4g", lineterminator="\n")


def check_kept(set_name: str, folder: Path | None = None) -> pd.DataFrame:
    """Judge a set from the rows kept with its figures -> the frame of verdicts.csv.

    folder: where they are, by default figures/<set>/. ValueError where verdicts.csv
    differs from it in any cell: it names the first.
    """
    folder = folder or files.figures_dir(set_name)
    frame = gather(set_name, folders=[folder])
    path = folder / "verdicts.csv"
    name, columns = f"figures/{set_name}/{path.name}", [*frame.columns]
    kept = files.read_table(path, name, columns)
    now = files.read_table(to_text(frame).encode(), name, columns)
    ids, ids_now = ([row["id"] for row in rows] for rows in (kept, now))
    amiss = "" if ids == ids_now else "its claims are not those of claims.csv, in order"
    for row, row_now in zip(kept, now) if not amiss else ():
        for column in columns:
            if not amiss and row[column] != row_now[column]:
                said, given = (_cut(r[column]) for r in (row, row_now))
                amiss = f"{row['id']}, {column}: {said} there, {given} by the rows"
    if amiss:
        raise ValueError(
            f"{name} is not what the measured rows beside it give ({amiss}): run make "
            f"reproduce SET={set_name}"
        )
    return frame


def _cut(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:59] + "…")


def display_verdict(rows: list[dict], set_name: str, *claim_ids: str) -> None:
    """Display verdict and finding of claims, from the rows measured so far."""
    lines = [
        f"<p><b>{row.id}, {wording.verdict_words(row.id, row.verdict)}:</b> "
        f"{escape(row.found or row.reason.removeprefix('not tested '))}</p>"
        for row in verdict_frame(rows, set_name, claim_ids).itertuples()
    ]
    _display_html("\n".join(lines), outputs.claims_metadata(claim_ids))


def display_table(notebook: str, set_name: str, run_dir: str = "") -> None:
    """Print the verdict words of a notebook's claims, display what was found and why.

    The last output of a notebook, in the cell that wrote its rows.
    """
    frame = gather(set_name, run_dir)
    frame = frame[frame["notebook"] == notebook]
    frame = frame.assign(verdict=frame.apply(_verdict_words, axis=1))
    print("\n".join(f"{row.id}  {row.verdict}" for row in frame.itertuples()))
    with pd.option_context("display.max_colwidth", None):
        columns = ["id", "statement", "status", "verdict", "found", "reason"]
        html = frame[columns].to_html(index=False, escape=True)
    _display_html(html, outputs.claims_metadata(frame["id"], recorded=True))


def _verdict_words(row: pd.Series) -> str:
    return wording.verdict_words(row["id"], row["verdict"])


def _display_html(html: str, metadata: dict) -> None:
    """Display HTML with what could hide or steer the page spelled out."""
    from IPython.display import HTML, display

    display(HTML(safe_text.escape_invisible(html)), metadata=metadata)
