"""One notebook, run in a process of its own: start, follow, keep files or error.

It writes to runs/<set>/.staging/. When it has finished its files are renamed into
runs/<set>/ and figures/<set>/ and, last of all, <notebook>.done.json is written, with
hashes of its inputs and outputs. A notebook without a valid one is run again. The
folder in .staging is this run's own: what is left of a killed one cannot write there.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from harness import files, fingerprint, safe_text


@dataclass
class NotebookProcess:
    """A notebook to run: its parameters, what they rest on, and how it went."""

    path: Path
    parameters: dict
    fingerprint: dict
    state: str = "waiting"
    process: subprocess.Popen | None = None
    started: float = 0.0
    seconds: float = 0.0
    peak: int = 0
    error: str = ""

    @property
    def name(self) -> str:
        return self.path.stem


def input_fingerprint(path: Path, parameters: dict, hashes: dict) -> dict:
    """Everything a notebook's results rest on; equal means nothing to do."""
    return fingerprint.notebook_inputs(path) | {
        "parameters": parameters,
        "models": hashes,
        "versions": fingerprint.versions(),
        "threads": os.environ.get("REPRODUCE_THREADS", "1"),
    }


def is_up_to_date(job: NotebookProcess, set: str) -> bool:
    """Whether its last run has the same inputs, and its files are as it left them."""
    try:
        done = json.loads((files.run_dir(set) / f"{job.name}.done.json").read_text())
        return done["inputs"] == job.fingerprint and done["outputs"] == {
            place: files.digest(output_root() / place) for place in done["outputs"]
        }
    except (OSError, ValueError, KeyError, TypeError):
        return False


def output_root() -> Path:
    return Path(os.environ.get("REPRODUCE_OUT", files.ROOT)).resolve()


def commit_outputs(job: NotebookProcess, set: str, staged: Path) -> None:
    """Move a finished notebook's files into place, and mark it done at the very end."""
    runs, figures = files.run_dir(set), files.figures_dir(set)
    done = runs / f"{job.name}.done.json"
    done.unlink(missing_ok=True)
    number = job.name.split("_")[0]
    rows = staged / "runs" / set / f"{job.name}.measured.csv"
    if rows.exists():
        (staged / "figures" / set).mkdir(parents=True, exist_ok=True)
        shutil.copyfile(rows, staged / "figures" / set / rows.name)
    drawn = {p.name for p in (staged / "figures" / set).glob("*") if p.is_file()}
    for old in figures.glob(f"{number}_*"):
        if old.name not in drawn and old.is_file():
            old.unlink()
    outputs = {}
    for here, there in (
        (staged / "figures" / set, figures),
        (staged / "runs" / set, runs),
    ):
        there.mkdir(parents=True, exist_ok=True)
        for path in sorted(p for p in here.glob("*") if p.is_file()):
            os.replace(path, there / path.name)
            place = (there / path.name).relative_to(output_root()).as_posix()
            outputs[place] = files.digest(there / path.name)
    about = {"inputs": job.fingerprint, "outputs": outputs}
    about |= {"seconds": round(job.seconds, 1), "peak_mb": job.peak // 2**20}
    files.write_whole(done, json.dumps(about, indent=1, sort_keys=True) + "\n")


def staging_folder(job: NotebookProcess, set: str) -> Path:
    """Where a notebook of this run writes until it has finished."""
    return files.run_dir(set) / ".staging" / str(os.getpid()) / job.name


def start(job: NotebookProcess, set: str, side_by_side: bool) -> NotebookProcess:
    """Start a notebook in a process of its own, with its files going to staging."""
    folder = staging_folder(job, set)
    (folder / "runs" / set).mkdir(parents=True)
    env = os.environ | {
        "REPRODUCE_OUT": str(folder.resolve()),
        "REPRODUCE_KEPT": str(output_root()),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONPATH": os.pathsep.join(
            [str(files.ROOT), os.environ.get("PYTHONPATH", "")]
        ),
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "passive",  # threads that spin starve a busy machine
    }
    if side_by_side or set == "mini":  # one thread: the same sums on every machine
        env["OMP_NUM_THREADS"] = os.environ.get("REPRODUCE_THREADS", "1")
    if set == "mini":
        env["HF_HUB_OFFLINE"] = "1"
        # else MKL's sums depend on where in memory a row begins, and on the processor
        env["MKL_CBWR"] = "AVX2"
    job.state, job.started = "running", time.monotonic()
    command = [sys.executable, "-m", "harness.run", "one", str(job.path)]
    command += [str(folder / "runs" / set), json.dumps(job.parameters)]
    errors = open(folder / "stderr", "wb")
    job.process = subprocess.Popen(
        command, env=env, cwd=files.ROOT, stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True,
    )  # fmt: skip
    errors.close()
    return job


def end(job: NotebookProcess, set: str) -> None:
    """Keep the files of a finished notebook, or the line that says why it failed."""
    job.seconds = time.monotonic() - job.started
    folder = staging_folder(job, set)
    if job.process.returncode == 0:
        models = job.fingerprint["models"]
        if input_fingerprint(job.path, job.parameters, models).items() <= (
            job.fingerprint.items()
        ):
            commit_outputs(job, set, folder)
            job.state = "done"
            return
        job.state, job.error = "failed", "its sources changed meanwhile: run it again"
        return
    errors = (folder / "stderr").read_text(encoding="utf-8", errors="replace")
    lines = [line for line in errors.splitlines() if line.strip()]
    short = "disk full" if files.is_disk_full(folder) else "out of memory"
    died = f"its process ended with status {job.process.returncode} ({short}?)"
    killed = job.process.returncode < 0  # it had no chance to say why
    job.error = safe_text.escape_invisible(
        (lines[-1] if lines and not killed else died)[:400]
    )
    job.state = "failed"
    executed = folder / "runs" / set / job.path.name
    if executed.exists():
        os.replace(executed, files.run_dir(set) / f"{job.name}.failed.ipynb")


def print_status(job: NotebookProcess) -> None:
    """One line a notebook."""
    clear = "\r\033[K" if sys.stdout.isatty() else ""
    took = f"{job.seconds:6.1f} s" if job.seconds else ""
    line = f"{clear}{job.name:<28} {job.state:<10} {took}  {job.error}"
    print(line.rstrip(), flush=True)


def measure_memory(running: list[NotebookProcess]) -> int:
    """Memory of the running notebooks' processes, summed, and noted for each."""
    import psutil

    total = 0
    for job in running:
        here = 0
        try:
            top = psutil.Process(job.process.pid)
            for process in [top, *top.children(recursive=True)]:
                here += process.memory_info().rss
        except psutil.Error:
            continue
        job.peak, total = max(job.peak, here), total + here
    return total


def kill_process(process: subprocess.Popen | None) -> None:
    """End a notebook's process and its kernel."""
    import psutil

    if process is None or process.poll() is not None:
        return
    try:
        family = [*psutil.Process(process.pid).children(recursive=True)]
        for one in (psutil.Process(process.pid), *family):
            one.kill()
    except psutil.Error:
        pass


def execute_notebook(path: str, out: str, parameters: str) -> int:
    """In the child: execute one notebook; the last line on stderr is its error."""
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    parent = os.getppid()
    threading.Thread(target=_follow, args=(parent,), daemon=True).start()
    source = Path(path)
    try:
        execute_notebook(
            path, str(Path(out) / source.name), parameters=json.loads(parameters),
            kernel_name="python3", cwd=str(source.parent), progress_bar=False,
            log_output=False,
        )  # fmt: skip
    except PapermillExecutionError as error:
        said = str(error.evalue).strip().splitlines() or [""]
        print(f"{error.ename}: {said[0]} (cell {error.cell_index})", file=sys.stderr)
        return 1
    except Exception as error:
        print(f"{type(error).__name__}: {error}".replace("\n", " "), file=sys.stderr)
        return 1
    return 0


def _follow(parent: int) -> None:
    """End with the parent, however it ended; the kernel with us."""
    import psutil

    while os.getppid() == parent:
        time.sleep(0.5)
    for kernel in psutil.Process().children(recursive=True):
        kernel.kill()
    os._exit(1)
