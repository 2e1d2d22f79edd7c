"""Run the notebooks: checked parameters, in parallel, resumed, whole or not at all.

    python -m harness.run reproduce --set mini    run what is not up to date, judge
    python -m harness.run verdicts --set mini     the verdict table from kept rows
    python -m harness.run publish                 mini's outputs into notebooks/, README

What is asked is checked in options.py; one notebook's life is in notebook_process.py.
"""

import argparse
import errno
import json
import os
import re
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from harness import files, fingerprint, safe_text, tables
from harness.publish.readme import publish
from harness.run import notebook_process, options
from harness.run.notebook_process import NotebookProcess


def reproduce(args) -> int:
    """Run what is not up to date, then judge; the exit status."""
    plan = prepare(args)
    if args.set == "mini" and (args.parameter or args.seed is not None):
        print("not mini's published settings: git checkout figures/mini brings those "
              "results back", flush=True)  # fmt: skip
    with run_lock(args.set):
        for folder in (files.run_dir(args.set), files.figures_dir(args.set)):
            files.check_writable(folder)
            files.remove_partial_files(folder)
        staging = files.run_dir(args.set) / ".staging"
        shutil.rmtree(staging, ignore_errors=True)
        queue = plan()
        try:
            began = time.monotonic()
            most = run_all(queue, args)
            seconds = round(time.monotonic() - began, 1)
        finally:
            for job in queue:
                notebook_process.kill_process(job.process)
            shutil.rmtree(staging, ignore_errors=True)
        if all(job.state == "done" for job in queue) and not args.only:
            cost = {"seconds": seconds, "peak_mb": most // 2**20}
            text = json.dumps(cost) + "\n"
            files.write_whole(files.run_dir(args.set) / "cost.json", text)
        failed = {j.name: f"its notebook failed: {j.error}" for j in queue if j.error}
        verdicts(args.set, failed, write=not failed)
    return 1 if failed else 0


def prepare(args):
    """Check what is asked; a function that lists the jobs, once the lock is held."""
    common = options.notebook_parameters(args)
    paths = options.select_notebooks(Path(args.notebooks), args.only)
    parameters = options.fit_parameters(paths, common)
    options.check_models(common)

    def plan() -> list[NotebookProcess]:
        hashes = options.model_hashes(common)  # those that this run will load
        return [
            NotebookProcess(
                path, own, notebook_process.input_fingerprint(path, own, hashes)
            )
            for path, own in zip(paths, parameters)
        ]

    return plan


def run_all(queue: list[NotebookProcess], args) -> int:
    """Run what is not up to date, the notebooks that gather all verdicts last.

    Returns the peak memory of all processes together, in bytes.
    """
    last = [job for job in queue if gathers(job)]
    most = run_some([job for job in queue if job not in last], args)
    for job in last:
        job.fingerprint["gathered"] = others_rows(job, args.set)
    return max(most, run_some(last, args))


def others_rows(job: NotebookProcess, set: str) -> str:
    """Hash of what a notebook that gathers rests on beside its own inputs: all rules
    and sentences, the other notebooks' rows, and which claims their figures bear on."""
    kept, number = files.figures_dir(set), job.name.split("_")[0]
    there = [*kept.glob("*.measured.csv"), *kept.glob("*.alt.json")]
    others = sorted(p for p in there if not p.name.startswith(f"{number}_"))
    return files.digest(fingerprint.CLAIMS, fingerprint.FINDINGS, *others)


def publish_mini(args) -> int:
    """Bring the playground up to date, then publish mini, if all of it is."""

    if any(fingerprint.NOTEBOOKS.glob("00_*.ipynb")):
        args.only = ["00"]
        reproduce(args)
    args.only = [path.stem for path in fingerprint.NOTEBOOKS.glob("[0-9][0-9]_*.ipynb")]
    plan = prepare(args)
    with run_lock("mini"):
        queue = plan()
        for job in filter(gathers, queue):
            job.fingerprint["gathered"] = others_rows(job, "mini")
        return publish(queue, lambda job: notebook_process.is_up_to_date(job, "mini"))


def gathers(job: NotebookProcess) -> bool:
    """Whether a notebook shows the verdicts of all the others."""
    code = "\n".join(fingerprint.cell_sources(job.path, "code"))
    return bool(re.search(r"tables\.(gather\(|display_table\(\s*[\"']{2})", code))


def run_some(queue: list[NotebookProcess], args) -> int:
    """Run these side by side where cores allow; peak memory in bytes."""
    for job in queue:
        if not args.force and notebook_process.is_up_to_date(job, args.set):
            job.state = "up to date"
            notebook_process.print_status(job)
    waiting = [job for job in queue if job.state == "waiting"]
    count = getattr(os, "sched_getaffinity", lambda _: range(os.cpu_count() or 1))
    wide = args.jobs or (len(count(0)) if args.set == "mini" else 1)
    running: list[NotebookProcess] = []
    most, shown = 0, 0.0
    while waiting or running:
        while waiting and len(running) < wide:
            running.append(notebook_process.start(waiting.pop(0), args.set, wide > 1))
        time.sleep(0.1)
        most = max(most, notebook_process.measure_memory(running))
        for job in [j for j in running if j.process.poll() is not None]:
            running.remove(job)
            notebook_process.end(job, args.set)
            notebook_process.print_status(job)
        if sys.stdout.isatty() and time.monotonic() - shown > 1:
            shown = time.monotonic()
            live = "  ".join(f"{j.name} {shown - j.started:.0f} s" for j in running)
            print(f"\r\033[K{live}", end="", flush=True)
    return most


@contextmanager
def run_lock(set: str):
    """One run of a set at a time: a second one waits. Freed by the system if we die."""
    folder = files.run_dir(set)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w") as lock:
        try:
            import fcntl
        except ImportError:  # no such lock on this system
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"another run of {set} is under way: waiting for it", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def verdicts(set: str, failed: dict | None = None, write: bool = False) -> None:
    """Judge every claim of a set, print the table, and keep it if asked."""

    folders = files.run_dir(set), files.figures_dir(set)
    if not (write or failed or any(any(f.glob("*.measured.csv")) for f in folders)):
        raise FileNotFoundError(f"nothing is measured: run make reproduce SET={set}")
    frame = tables.gather(set, failed=failed)
    if write:
        text = frame.to_csv(index=False, float_format="%.4g", lineterminator="\n")
        files.write_whole(files.figures_dir(set) / "verdicts.csv", text)
    width = max(60, shutil.get_terminal_size((160, 24)).columns)
    print(f"\nverdicts on {set}")
    for row in frame.itertuples():
        line = f"{row.id:<3} {row.verdict:<15} {row.reason}"
        print(safe_text.escape_invisible(line)[:width].rstrip())


class Parser(argparse.ArgumentParser):
    """A command line whose mistakes are one line, like all others."""

    def error(self, message: str):
        raise ValueError(f"{message}; python -m harness.run --help lists what there is")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = Parser(prog="python -m harness.run", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    sub = top.add_subparsers(dest="command", required=True)
    run = sub.add_parser("reproduce", help="run the notebooks that are not up to date")
    run.add_argument("--set", default="mini", help="mini, paper or a name of your own")
    run.add_argument("--base", help="folder or hub id of the base model")
    run.add_argument(
        "--instruct", help="folder or hub id of the instruction-tuned model"
    )
    run.add_argument("--device", default="auto")
    run.add_argument("--dtype", default="float32")
    run.add_argument("--seed", type=int)
    run.add_argument("--jobs", type=int, default=0, help="notebooks side by side")
    run.add_argument("--only", action="append", default=[], help="a notebook's name")
    run.add_argument("--force", action="store_true", help="run even what is up to date")
    run.add_argument(
        "-p", "--parameter", action="append", default=[], metavar="NAME=value"
    )
    run.add_argument(
        "--notebooks", default=str(fingerprint.NOTEBOOKS), help=argparse.SUPPRESS
    )
    table = sub.add_parser("verdicts", help="print the verdict table")
    table.add_argument("--set", default="mini")
    sub.add_parser("publish", help="mini's outputs into notebooks/ and README.md")
    child = sub.add_parser("one")
    for name in ("path", "out", "parameters"):
        child.add_argument(name)
    return top


def main(argv: list[str] | None = None) -> int:
    """Do what is asked; a user's mistake or a full disk ends in one line."""
    try:
        args = parser().parse_args(argv)
        if args.command == "reproduce":
            return reproduce(args)
        if args.command == "one":
            return notebook_process.execute_notebook(
                args.path, args.out, args.parameters
            )
        if args.command == "publish":
            return publish_mini(parser().parse_args(["reproduce"]))
        verdicts(files.check_set(args.set))
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


if __name__ == "__main__":
    sys.exit(main())
