"""Run the notebooks: checked parameters, in parallel, resumed, whole or not at all.

    python -m harness.run reproduce --set mini    run what is not up to date, judge
    python -m harness.run verdicts --set mini     the verdict table from kept rows
    python -m harness.run check --set mini        kept against committed results
    python -m harness.run sweep sweep.csv         reproduce for many models, as jobs
    python -m harness.run publish                 mini's outputs into notebooks/, README

What is asked is checked in options.py; one notebook's life is in notebook_process.py;
what a rerun changed is found in compare.py.
"""

import argparse
import errno
import json
import os
import shutil
import sys
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from filelock import FileLock, Timeout

from harness import files, fingerprint, safe_text
from harness.run import compare, notebook_process, options
from harness.run.notebook_process import NotebookProcess
from harness.run.options import RunRequest


def reproduce(request: RunRequest) -> int:
    """Run what is not up to date, judge, compare; the exit status."""
    set_name = request.set_name
    if set_name == "mini" and any(parameters for _, parameters in request.notebooks):
        print(
            "not mini's published settings: git checkout figures/mini brings those "
            "results back",
            flush=True,
        )
    for name, sizes in request.sizes.items():
        said = " ".join(f"{parameter}={value}" for parameter, value in sizes.items())
        print(f"{set_name} asks {name} with {said} (models/sizes.csv)", flush=True)
    with run_lock(set_name):
        committed = compare.committed_results(set_name)
        before = committed or compare.kept_results(set_name)
        failed = run_notebooks(request)
        print_verdicts(set_name, failed, write=not failed)
        if before.tables and not failed:
            print(compare.compare(before, compare.kept_results(set_name)).text())
        elif not failed:
            print(f"\nno committed or earlier results of {set_name} to compare with")
    return 1 if failed else 0


def run_notebooks(request: RunRequest) -> dict[str, str]:
    """Run what is not up to date, under the lock; why each failed one failed."""
    set_name = request.set_name
    for folder in (files.run_dir(set_name), files.figures_dir(set_name)):
        files.check_writable(folder)
        files.remove_partial_files(folder)
    staging = files.run_dir(set_name) / ".staging"
    shutil.rmtree(staging, ignore_errors=True)
    notebooks = plan(request)
    try:
        began = time.monotonic()
        peak_bytes = run_in_turn(notebooks, request)
        seconds = round(time.monotonic() - began, 1)
    finally:
        for notebook in notebooks:
            notebook_process.kill_process(notebook.process)
        shutil.rmtree(staging, ignore_errors=True)
    if request.is_complete and all(n.state == "done" for n in notebooks):
        cost = json.dumps({"seconds": seconds, "peak_mb": peak_bytes // 2**20})
        files.write_whole(files.run_dir(set_name) / "cost.json", cost + "\n")
    return {n.name: f"its notebook failed: {n.error}" for n in notebooks if n.error}


def plan(request: RunRequest) -> list[NotebookProcess]:
    """The notebooks with hashes of what this run will load; made under the lock."""
    hash_models = partial(options.model_hashes, request.common_parameters)
    hashes = hash_models()
    return [
        NotebookProcess(
            path,
            request.set_name,
            parameters,
            notebook_process.input_fingerprint(path, parameters, hashes),
            hash_models,
        )
        for path, parameters in request.notebooks
    ]


def run_in_turn(notebooks: list[NotebookProcess], request: RunRequest) -> int:
    """Run all notebooks, the one that reads the others' results last; peak memory.

    What it reads is hashed when they have ended, and it waits where one of them failed.
    """
    last = [n for n in notebooks if n.name == fingerprint.ACROSS]
    others = [n for n in notebooks if n not in last]
    peak_bytes = run_side_by_side(others, request)
    failed = ", ".join(n.name for n in others if n.error)
    for notebook in last:
        hashes = notebook.inputs["models"]
        again = (notebook.path, notebook.parameters, hashes)
        notebook.inputs = notebook_process.input_fingerprint(*again)
        if failed:
            notebook.state = "failed"
            notebook.error = f"it reads what {failed} should have left"
            print_status(notebook)
    return max(peak_bytes, run_side_by_side([] if failed else last, request))


def run_side_by_side(notebooks: list[NotebookProcess], request: RunRequest) -> int:
    """Run what is not up to date, as many at once as fit; peak memory in bytes."""
    for notebook in notebooks:
        if not request.force and notebook_process.is_up_to_date(notebook):
            notebook.state = "up to date"
            print_status(notebook)
    waiting = [notebook for notebook in notebooks if notebook.state == "waiting"]
    running: list[NotebookProcess] = []
    width, peak_bytes, shown_at = count_slots(request), 0, 0.0
    while waiting or running:
        while waiting and len(running) < width:
            notebook = waiting.pop(0)
            notebook_process.start(notebook, width > 1, request.cell_timeout)
            running.append(notebook)
        time.sleep(0.1)
        peak_bytes = max(peak_bytes, notebook_process.measure_memory(running))
        for notebook in list(running):
            has_ended = notebook.process.poll() is not None
            follow(notebook)
            if has_ended:
                running.remove(notebook)
                notebook_process.end(notebook)
                print_status(notebook)
        if sys.stdout.isatty() and time.monotonic() - shown_at > 1:
            shown_at = time.monotonic()
            columns = shutil.get_terminal_size().columns
            print(f"{CLEAR_LINE}{progress_line(running, columns)}", end="", flush=True)
    return peak_bytes


def count_slots(request: RunRequest) -> int:
    """Notebooks side by side: as asked, else a core each for mini and one for others,
    whose models are large."""
    if request.jobs or request.set_name != "mini":
        return request.jobs or 1
    if hasattr(os, "sched_getaffinity"):  # fewer than cpu_count in a container
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


CLEAR_LINE = "\r\033[K"


def follow(notebook: NotebookProcess) -> None:
    """Read where a notebook is; off a terminal, log each section it has come to."""
    section = notebook.position.section
    for position in notebook_process.read_positions(notebook):
        if position.section != section and not sys.stdout.isatty():
            seconds = time.monotonic() - notebook.started_at
            where = f"cell {position.cell} of {position.cells}"
            line = f"{notebook.name:<28} {where:<16} {seconds:6.1f} s  "
            line += safe_text.escape_invisible(position.section)
            print(line, flush=True)
        section = position.section


def progress_line(running: list[NotebookProcess], columns: int) -> str:
    """One line for all running notebooks: cell k of n, seconds, section."""
    parts, room = [], columns // max(1, len(running)) - 2
    for notebook in running:
        at, seconds = notebook.position, time.monotonic() - notebook.started_at
        where = f"cell {at.cell} of {at.cells}" if at.cell else "starting"
        part = f"{notebook.name} {where}, {seconds:.0f} s"
        part += f", {safe_text.escape_invisible(at.section)}" if at.section else ""
        parts.append(part[:room])
    return "  ".join(parts)


def print_status(notebook: NotebookProcess) -> None:
    """Print one line for a notebook that has ended or need not run."""
    clear = CLEAR_LINE if sys.stdout.isatty() else ""
    took = f"{notebook.seconds:6.1f} s" if notebook.seconds else ""
    line = f"{clear}{notebook.name:<28} {notebook.state:<10} {took}  {notebook.error}"
    print(line.rstrip(), flush=True)


@contextmanager
def run_lock(set_name: str):
    """Hold a set for one run; a second run waits. A holder that dies frees it."""
    folder = files.run_dir(set_name)
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"another run of {set_name} is under way: waiting for it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def print_verdicts(
    set_name: str, failed: dict[str, str] | None = None, write: bool = False
) -> None:
    """Judge every claim of a set, print the table, and keep it if asked.

    failed: notebook -> why it could not be run.
    """
    from harness import tables, wording

    folders = files.run_dir(set_name), files.figures_dir(set_name)
    has_rows = any(any(folder.glob("*.measured.csv")) for folder in folders)
    if not (write or failed or has_rows):
        raise FileNotFoundError(
            f"nothing is measured: run make reproduce SET={set_name}"
        )
    frame = tables.gather(set_name, failed=failed)
    if write:
        path = files.figures_dir(set_name) / "verdicts.csv"
        files.write_whole(path, tables.to_text(frame))
    width = max(60, shutil.get_terminal_size((160, 24)).columns)
    print(f"\nverdicts on {set_name}")
    for row in frame.itertuples():
        verdict = wording.verdict_words(row.id, row.verdict)
        line = f"{row.id:<3} {row.status:<8} {verdict:<23} {row.reason}"
        print(safe_text.escape_invisible(line)[:width].rstrip())


def print_beside() -> None:
    """Print the verdicts of all sets that have been run side by side, if several have.

    Each is judged anew from the rows in its folder.
    """
    from harness import tables

    folders = files.set_folders()
    if len(folders) < 2:
        return
    beside = tables.side_by_side(folders)
    words = beside.pivot(index="id", columns="set", values="verdict")
    width = max(map(len, [*folders, "not reproduced"])) + 2
    print(f"\nby set  {''.join(name.ljust(width) for name in folders)}".rstrip())
    for claim in dict.fromkeys(beside["id"]):
        cells = "".join(words.loc[claim, name].ljust(width) for name in folders)
        print(f"{claim:<7} {cells}".rstrip())


def check(set_name: str) -> int:
    """Compare a set's kept results with the committed ones; 1 if findings differ."""
    committed = compare.committed_results(set_name)
    if not committed:
        raise FileNotFoundError(
            f"no figures/{set_name} is committed here: check needs a git checkout "
            "with that set's results"
        )
    found = compare.compare(committed, compare.kept_results(set_name))
    print(found.text())
    return 0 if found.same_findings else 1


def publish() -> int:
    """Bring the playground up to date, then publish mini, if all of it is."""
    from harness.publish import pages

    names = [path.stem for path in fingerprint.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")]
    request = options.run_request("mini", only=names)
    with run_lock("mini"):
        if any(name.startswith("00") for name in names):
            run_notebooks(options.run_request("mini", only=["00"]))
        return pages.publish(plan(request), notebook_process.is_up_to_date)


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are one line, like all others."""

    def error(self, message: str):
        raise ValueError(f"{message}; python -m harness.run --help lists what there is")


def parser() -> argparse.ArgumentParser:
    """The command line; the defaults are those of options.run_request."""
    top = Parser(
        prog="python -m harness.run",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = top.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "reproduce",
        help="run the notebooks that are not up to date",
        argument_default=argparse.SUPPRESS,
    )
    run.add_argument("--base", help="folder or hub id of the base model")
    run.add_argument(
        "--instruct", help="folder or hub id of the instruction-tuned model"
    )
    run.add_argument("--device", help="auto, cpu, cuda, cuda:N or mps")
    run.add_argument("--dtype", help="of the models: float32, bfloat16, float16")
    run.add_argument("--seed", type=int)
    run.add_argument("--jobs", type=int, help="notebooks side by side")
    listed = {"action": "extend", "type": str.split}  # "01 02", as make hands them on
    run.add_argument("--only", help="a notebook's name or number", **listed)
    run.add_argument(
        "--params", dest="parameters", help="NAME=value ..., without spaces", **listed
    )
    run.add_argument("--force", action="store_true", help="run even what is up to date")
    run.add_argument(
        "--cell-timeout",
        type=int,
        metavar="SECONDS",
        help="how long one cell may take: 600 for mini, else 3600",
    )
    run.add_argument(
        "-p", "--parameter", action="append", dest="parameters", metavar="NAME=value"
    )
    run.add_argument("--notebooks", help=argparse.SUPPRESS)
    many = commands.add_parser(
        "sweep",
        help="reproduce for each row of a list, as jobs",
        argument_default=argparse.SUPPRESS,
    )
    many.add_argument("table", help="a csv: set, base, instruct, seed, dtype")
    many.add_argument("--cluster", help="local or slurm")
    many.add_argument("--parallel", type=int, help="jobs at a time")
    many.add_argument("--slurm", help="name=value ..., for submitit", **listed)
    many.add_argument("--device")
    many.add_argument("--only", **listed)
    many.add_argument("--params", dest="parameters", **listed)
    many.add_argument("--cell-timeout", type=int)
    table = commands.add_parser("verdicts", help="print the verdict table")
    compared = commands.add_parser("check", help="compare with the committed results")
    for command in (run, table, compared):
        command.add_argument(
            "--set",
            default="mini",
            dest="set_name",
            metavar="SET",
            help="mini, smollm2, paper, ... (docs/models.md), or a name of your own",
        )
    commands.add_parser("publish", help="mini's outputs into notebooks/ and README.md")
    child = commands.add_parser("one")  # what notebook_process.start calls
    for name in ("path", "out_folder", "parameters"):
        child.add_argument(name)
    child.add_argument("cell_timeout", type=int)
    return top


def main(argv: list[str] | None = None) -> int:
    """Do what is asked; a user's mistake or a full disk ends in one line."""
    try:
        asked = vars(parser().parse_args(argv))
        command = asked.pop("command")
        if command == "reproduce":
            return reproduce(options.run_request(**asked))
        if command == "sweep":
            from harness.run import sweep

            return sweep.sweep(**asked)
        if command == "one":
            return notebook_process.execute_notebook(**asked)
        if command == "publish":
            return publish()
        from harness import tables  # pandas: after the command line has been read

        set_name = files.check_set_name(asked["set_name"])
        if command == "check":
            return check(set_name)
        print_verdicts(set_name)
        print_beside()
        if (files.figures_dir(set_name) / "verdicts.csv").exists():
            tables.check_kept(set_name)
        return 0
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130
    except (ValueError, OSError, MemoryError) as error:
        print(f"error: {explain_error(error)}", file=sys.stderr)
        return 2


ADVICE = {
    errno.ENOSPC: "make room and run it again: finished notebooks are kept",
    errno.EDQUOT: "make room and run it again: finished notebooks are kept",
    errno.EROFS: "runs/ and figures/ must be writable: use a checkout of your own",
    errno.EACCES: "runs/ and figures/ must be writable: use a checkout of your own",
}


def explain_error(error: Exception) -> str:
    """An error as one line; for one of the system's, which file and what to do."""
    text = getattr(error, "strerror", None) or str(error)
    if getattr(error, "filename", None):
        text += f" ({Path(str(error.filename)).name})"
    advice = ADVICE.get(getattr(error, "errno", None))
    text += f": {advice}" if advice else ""
    return safe_text.escape_invisible(" ".join(text.split()))
