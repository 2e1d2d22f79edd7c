"""Run many models and seeds, one job a set of results, here or on a Slurm cluster.

    read_list   the list's rows, every one checked before any job starts
    run_job     one job: `reproduce` of one set, as a process of its own
    sweep       submit what is not up to date, a few at a time; one table of all

Jobs go through submitit, an extra: pip install -e '.[sweep]'. docs/sweep.md says more.
"""

import csv
import io
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from harness import files, fingerprint, safe_text
from harness.run import cli, notebook_process, options

COLUMNS = ("set", "base", "instruct", "seed", "dtype")  # the first two are needed
RESULTS = (*COLUMNS, "state", "why", "seconds", "peak_mb", "log")
ENDED = ("done", "up to date", "failed")
MINUTES = 24 * 60  # that a job may take unless SLURM says otherwise
POLL_SECONDS = 0.5
LOST_SECONDS = 30  # for a result to appear on a shared disk after a job left the queue


def read_list(path: str | Path) -> list[dict[str, str]]:
    """Read the rows of a list as text; ValueError, one line, for one that cannot be.

    Models are not looked for here: `check_row` does that.
    """
    name, path = Path(path).name, Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"LIST={str(path)!r}: no such file")
    try:
        found = list(csv.reader(io.StringIO(path.read_text("utf-8"), newline="")))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{name}: not a csv in UTF-8: {error}") from None
    heads, *cells = found or [[]]
    if unknown := [head for head in heads if head not in COLUMNS]:
        known = ", ".join(COLUMNS)
        raise ValueError(f"{name}: unknown column {unknown[0]!r}: expected {known}")
    if len({*heads}) < len(heads) or not {"set", "base"} <= {*heads} or not cells:
        raise ValueError(f"{name}: expected columns set and base once, and a row")
    rows: list[dict[str, str]] = []
    taken = {*options.MODEL_SETS, *options.public_sets(), *options.NO_SETS}
    for number, values in enumerate(cells, 2):
        where = f"{name}, row {number}"
        if len(values) != len(heads):
            raise ValueError(f"{where}: {len(values)} cells for {len(heads)} columns")
        row = dict.fromkeys(COLUMNS, "") | dict(zip(heads, map(str.strip, values)))
        if row["set"] in taken or files.SEED.fullmatch(row["set"]):
            raise ValueError(f"{where}: set {row['set']!r} has models of its own")
        if row["set"].lower() in {other["set"].lower() for other in rows}:
            raise ValueError(f"{where}: set {row['set']!r} is in the list twice")
        if row["seed"] and not (row["seed"].isascii() and row["seed"].isdigit()):
            raise ValueError(f"{where}: seed {row['seed']!r}: expected a whole number")
        rows.append(row)
    return rows


def check_row(row: dict[str, str], common: dict[str, Any]) -> bool:
    """Whether a row's results are all up to date; one line if it cannot be run."""
    asked = {name: row[name] or None for name in ("base", "instruct")}
    asked |= {"dtype": row["dtype"] or None}
    seed = int(row["seed"]) if row["seed"] else None
    request = options.run_request(row["set"], seed=seed, **asked, **common)
    return all(notebook_process.is_up_to_date(n) for n in cli.plan(request))


def job_command(row: dict[str, str], common: dict[str, Any]) -> list[str]:
    """The `reproduce` of one row, as a command."""
    command = [sys.executable, "-m", "harness.run", "reproduce", f"--set={row['set']}"]
    command += [f"--{name}={row[name]}" for name in COLUMNS[1:] if row[name]]
    command += [f"--parameter={pair}" for pair in common.get("parameters", ())]
    command += [f"--only={name}" for name in common["only"]]
    for name in ("device", "cell_timeout"):
        if name in common:
            command.append(f"--{name.replace('_', '-')}={common[name]}")
    return command


def run_job(command: list[str], log: str, variables: dict[str, str]) -> dict[str, Any]:
    """Run a command to its end: state, why it failed, seconds, peak memory of its tree.

    variables: of the environment, as they were where the job was submitted.
    """
    began = time.monotonic()
    Path(log).parent.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **variables}
    is_local = environment.get("SUBMITIT_EXECUTOR") == "local"
    if is_local and "CUDA_VISIBLE_DEVICES" not in variables:
        environment.pop("CUDA_VISIBLE_DEVICES", None)  # submitit hides every GPU
    with open(log, "wb") as output:
        how: dict[str, Any] = {"cwd": files.ROOT, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, stdout=output, env=environment, **how)
        seen: Any = SimpleNamespace(process=process, peak_bytes=0, cpu_seconds=0.0)
        try:
            while process.poll() is None:
                notebook_process.measure_memory([seen])
                time.sleep(0.2)
        finally:
            notebook_process.kill_process(process)
    lines = Path(log).read_text(encoding="utf-8", errors="replace").splitlines()
    wrong = [x for x in lines if x.startswith("error: ") or " failed " in x]
    why = "" if process.returncode == 0 else "; ".join(wrong or lines[-1:])
    return {
        "state": "failed" if process.returncode else "done",
        "why": why or (f"status {process.returncode}" if process.returncode else ""),
        "seconds": round(time.monotonic() - began, 1),
        "peak_mb": seen.peak_bytes // 2**20,
    }


def make_executor(cluster: str, folder: Path, slurm: Sequence[str]) -> Any:
    """A submitit executor; `slurm` are "name=value" of its `update_parameters`."""
    if cluster not in ("local", "slurm"):
        raise ValueError(f"CLUSTER={cluster!r}: expected local or slurm")
    if slurm and cluster == "local":
        raise ValueError("SLURM is for CLUSTER=slurm")
    try:
        import submitit
    except ImportError:
        raise ValueError(
            "submitit is not installed: .venv/bin/python -m pip install submitit"
        ) from None
    settings: dict[str, Any] = {"timeout_min": MINUTES, "name": "sweep"}
    for pair in slurm:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"SLURM={pair!r}: expected name=value")
        settings[name] = int(value) if value.isdigit() else value
    try:
        executor = submitit.AutoExecutor(folder=folder / "%j", cluster=cluster)
        executor.update_parameters(**settings)
    except (RuntimeError, NameError, TypeError, AssertionError) as error:
        raise ValueError(f"CLUSTER={cluster}: {error}") from None
    return executor


def sweep(
    table: str,
    cluster: str = "local",
    parallel: int = 0,
    slurm: Sequence[str] = (),
    **common: Any,
) -> int:
    """Run every row of a list that is not up to date; 1 if one failed.

    parallel: jobs at a time; 0: one at a time here, all at once on Slurm. common: what
    all rows share: device, parameters, only, cell_timeout of `options.run_request`.
    """
    if parallel < 0:
        raise ValueError(f"PARALLEL={parallel}: expected 0 or more")
    rows = read_list(table)
    if not common.get("only"):  # what reads the other sets runs when they are there
        paths = options.select_notebooks(fingerprint.NOTEBOOKS, ())
        common["only"] = [p.stem for p in paths if p.stem != fingerprint.ACROSS]
    for number, row in enumerate(rows, 2):
        try:
            row["state"] = "up to date" if check_row(row, common) else "waiting"
        except (ValueError, OSError, MemoryError) as error:
            said = cli.explain_error(error)
            if cluster == "slurm" and isinstance(error, MemoryError):
                row["state"] = "waiting"  # the node it runs on decides
                continue
            raise ValueError(f"{Path(table).name}, row {number}: {said}") from None
    folder = files.output_root() / "runs" / f"{Path(table).stem}.sweep"
    executor = make_executor(cluster, folder, slurm)
    passed = ("PYTHONPATH", "REPRODUCE_OUT", "CUDA_VISIBLE_DEVICES")
    here = {k: os.environ[k] for k in passed if k in os.environ and cluster == "local"}

    def submit(row: dict[str, Any]) -> Any:
        row["log"] = f"{folder.name}/{row['set']}.log"
        log = str(folder / f"{row['set']}.log")
        return executor.submit(run_job, job_command(row, common), log, here)

    width = parallel or (len(rows) if cluster == "slurm" else 1)
    path = folder.with_name(f"{folder.name}.csv")
    if path.exists():  # what an earlier sweep took for what is not run again
        earlier = {r["set"]: r for r in files.read_table(path, path.name, RESULTS)}
        for row in rows:
            if row["state"] == "up to date" and row["set"] in earlier:
                kept = earlier[row["set"]]
                row |= {name: kept[name] for name in ("seconds", "peak_mb", "log")}
    run_rows(rows, submit, width, lambda: write_results(rows, path))
    count = {state: sum(r["state"] == state for r in rows) for state in ENDED}
    said = ", ".join(f"{number} {state}" for state, number in count.items())
    print(f"{said}: runs/{path.name}", flush=True)
    return 1 if count["failed"] else 0


def run_rows(
    rows: list[dict[str, Any]],
    submit: Callable[[dict[str, Any]], Any],
    width: int,
    keep: Callable[[], object],
) -> None:
    """Submit waiting rows, at most `width` at a time; `keep` after each that ends."""
    waiting = [row for row in rows if row["state"] == "waiting"]
    running: list[tuple[dict[str, Any], Any]] = []
    keep()
    try:
        while waiting or running:
            while waiting and len(running) < width:
                running.append((waiting[0], submit(waiting[0])))
                waiting.pop(0)["state"] = "submitted"
            for row, job in list(running):
                if job.done() or has_left_queue(job):
                    running.remove((row, job))
                    row |= read_result(job)
                    said = f"{row['set']:<28} {row['state']:<10} {row['why']}".rstrip()
                    print(safe_text.escape_invisible(said), flush=True)
                    keep()
            time.sleep(POLL_SECONDS * len(running))  # squeue is asked for each
    finally:
        for row, job in running:
            job.cancel()
            row["state"] = "stopped"
        keep()


def has_left_queue(job: Any) -> bool:
    """Whether Slurm no longer holds a job; it need not keep accounts of ended ones."""
    if type(job).__name__ != "SlurmJob":
        return False
    command = ["squeue", "--noheader", "--format=%i", f"--jobs={job.job_id}"]
    found = subprocess.run(command, capture_output=True, text=True)
    gone = not found.stdout.strip() and (
        found.returncode == 0 or "Invalid job id" in found.stderr
    )
    until = time.monotonic() + LOST_SECONDS
    while gone and not job.paths.result_pickle.exists() and time.monotonic() < until:
        time.sleep(POLL_SECONDS)
    return gone


def read_result(job: Any) -> dict[str, Any]:
    """What `run_job` returned, or why it did not."""
    try:
        if job.paths.result_pickle.exists():
            return job.result()
        why = "the job ended without a result: killed, out of memory or of time"
    except Exception as error:  # whatever was raised in the job
        why = f"the job failed: {(str(error).strip().splitlines() or [error])[-1]}"
    return {"state": "failed", "why": why, "seconds": "", "peak_mb": ""}


def write_results(rows: list[dict[str, Any]], path: Path) -> None:
    """Write the table of all rows, whole or not at all; cells no spreadsheet runs."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(RESULTS)
    for row in rows:
        said = [" ".join(str(row.get(name, "")).split()) for name in RESULTS]
        clean = (safe_text.escape_invisible(cell)[:500] for cell in said)
        writer.writerow([f"'{c}" if c[:1] in tuple("=+-@") else c for c in clean])
    files.write_whole(path, text.getvalue())
