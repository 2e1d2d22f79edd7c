"""One notebook, run in a process of its own: start, follow, keep files or error.

It writes to runs/<set>/.staging/. When it has finished its files are renamed into
runs/<set>/ and figures/<set>/ and, last of all, <notebook>.done.json is written, with
hashes of its inputs and outputs. A notebook without a valid one is run again. The
folder in .staging is this run's own: what is left of a killed one cannot write there.
There the process also notes which cell it has come to (positions, a line of JSON a
cell) and, if it fails, why (stderr, the last line).
"""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness import files, fingerprint, safe_text


@dataclass(frozen=True)
class Position:
    """Where a running notebook is: code cell `cell` of `cells`, under a heading."""

    cell: int = 0
    cells: int = 0
    section: str = ""


@dataclass
class NotebookProcess:
    """A notebook to run: its parameters, what its results rest on, how it went."""

    path: Path
    set_name: str
    parameters: dict
    inputs: dict  # input_fingerprint when the run was planned
    hash_models: Callable[[], dict] = dict  # what its models are now
    state: str = "waiting"
    process: subprocess.Popen | None = None
    started_at: float = 0.0  # time.monotonic()
    position: Position = Position()
    positions_read: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0
    cpu_seconds: float = 0.0
    error: str = ""

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def staging(self) -> Path:
        """Where it writes, in this run, until it has finished."""
        folder = files.run_dir(self.set_name) / ".staging"
        return folder / str(os.getpid()) / self.name


def input_fingerprint(path: Path, parameters: dict, model_hashes: dict) -> dict:
    """Everything a notebook's results rest on; equal means nothing to do."""
    return fingerprint.notebook_inputs(path) | {
        "parameters": parameters,
        "models": model_hashes,
        "versions": fingerprint.versions(),
        "threads": os.environ.get("REPRODUCE_THREADS", "1"),
    }


def is_up_to_date(notebook: NotebookProcess) -> bool:
    """Whether its last run has the same inputs, and its files are as it left them."""
    path = files.run_dir(notebook.set_name) / f"{notebook.name}.done.json"
    try:
        done = json.loads(path.read_text()) if path.is_file() else {}
        return done["inputs"] == notebook.inputs and done["outputs"] == {
            name: files.digest(files.output_root() / name) for name in done["outputs"]
        }
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


def _outputs_of(done: Path) -> dict:
    """The files, with their hashes, that a *.done.json says its notebook made."""
    try:
        return dict(json.loads(done.read_text())["outputs"]) if done.is_file() else {}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def commit_outputs(notebook: NotebookProcess, staged: Path) -> None:
    """Move a finished notebook's files into place, and mark it done at the very end."""
    set_name = notebook.set_name
    runs, figures = files.run_dir(set_name), files.figures_dir(set_name)
    staged_runs, staged_figures = (
        staged / "runs" / set_name,
        staged / "figures" / set_name,
    )
    done = runs / f"{notebook.name}.done.json"
    made = {*_outputs_of(done)}
    for about in figures.glob(f"{notebook.name.split('_')[0]}_*.alt.json"):
        name = f"figures/{set_name}/{about.name.removesuffix('.alt.json')}"
        made |= {f"{name}.{kind}" for kind in ("alt.json", "csv", "png", "svg")}
    rows = staged_runs / f"{notebook.name}.measured.csv"
    if rows.exists():
        staged_figures.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(rows, staged_figures / rows.name)
    # no longer done, but what it made so far is known to the next run
    new = [f"figures/{set_name}/{path.name}" for path in staged_figures.glob("*")]
    known = json.dumps({"outputs": dict.fromkeys([*made, *new], "")})
    files.write_whole(done, known)
    for name in made - {*new}:
        if Path(name).parent == Path("figures", set_name):
            (figures / Path(name).name).unlink(missing_ok=True)
    outputs = {}
    for source, target in ((staged_figures, figures), (staged_runs, runs)):
        target.mkdir(parents=True, exist_ok=True)
        for path in sorted(p for p in source.glob("*") if p.is_file()):
            kept = target / path.name
            os.replace(path, kept)
            name = kept.relative_to(files.output_root()).as_posix()
            outputs[name] = files.digest(kept)
    about = {"inputs": notebook.inputs, "outputs": outputs}
    about |= {"seconds": round(notebook.seconds, 1)}
    about |= {"peak_mb": notebook.peak_bytes // 2**20}
    about |= {"cpu_seconds": round(notebook.cpu_seconds, 1)}
    files.write_whole(done, json.dumps(about, indent=1, sort_keys=True) + "\n")


def start(notebook: NotebookProcess, side_by_side: bool, cell_timeout: int) -> None:
    """Start a notebook in a process of its own, with its files going to staging."""
    set_name, staging = notebook.set_name, notebook.staging
    staged_runs = staging / "runs" / set_name
    staged_runs.mkdir(parents=True)
    python_path = [str(files.ROOT), os.environ.get("PYTHONPATH", "")]
    env = os.environ | {
        "REPRODUCE_OUT": str(staging.resolve()),
        "REPRODUCE_KEPT": str(files.output_root()),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYTHONPATH": os.pathsep.join(python_path),
        "TOKENIZERS_PARALLELISM": "false",
        "OMP_WAIT_POLICY": "passive",  # threads that spin starve a busy machine
    }
    if side_by_side or set_name == "mini":  # one thread: the same sums everywhere
        env["OMP_NUM_THREADS"] = os.environ.get("REPRODUCE_THREADS", "1")
    if set_name == "mini":
        env["HF_HUB_OFFLINE"] = "1"
        # else MKL's sums depend on where in memory a row begins, and on the processor
        env["MKL_CBWR"] = "AVX2"
    command = [sys.executable, "-m", "harness.run", "one", str(notebook.path)]
    command += [str(staged_runs), json.dumps(notebook.parameters), str(cell_timeout)]
    notebook.state, notebook.started_at = "running", time.monotonic()
    (staging / "positions").touch()
    with open(staging / "stderr", "wb") as errors:
        notebook.process = subprocess.Popen(
            command,
            env=env,
            cwd=files.ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            start_new_session=True,
        )


def read_positions(notebook: NotebookProcess) -> list[Position]:
    """Where a running notebook has been since the last call; sets its position."""
    text = (notebook.staging / "positions").read_text(encoding="utf-8")
    lines = text.split("\n")[notebook.positions_read : -1]  # the last one is not whole
    positions = [Position(*json.loads(line)) for line in lines]
    notebook.positions_read += len(lines)
    notebook.position = [notebook.position, *positions][-1]
    return positions


def end(notebook: NotebookProcess) -> None:
    """Keep the files of a finished notebook, or the line that says why it failed."""
    notebook.seconds = time.monotonic() - notebook.started_at
    notebook.state, status = "failed", notebook.process.returncode
    if status == 0:
        before = notebook.inputs
        now = input_fingerprint(
            notebook.path, notebook.parameters, notebook.hash_models()
        )
        if now != before:
            what = "sources" if now["models"] == before["models"] else "models"
            notebook.error = f"its {what} changed meanwhile: run it again"
            return
        commit_outputs(notebook, notebook.staging)
        notebook.state = "done"
        return
    errors = (notebook.staging / "stderr").read_text("utf-8", errors="replace")
    lines = [line for line in errors.splitlines() if line.strip()]
    if status < 0 or not lines:  # it had no chance to say why
        cause = "disk full" if files.is_disk_full(notebook.staging) else "out of memory"
        lines = [f"its process ended with status {status} ({cause}?)"]
    notebook.error = safe_text.escape_invisible(lines[-1][:400])
    runs = files.run_dir(notebook.set_name)
    executed = notebook.staging / "runs" / notebook.set_name / notebook.path.name
    if executed.exists():
        os.replace(executed, runs / f"{notebook.name}.failed.ipynb")


def measure_memory(running: list[NotebookProcess]) -> int:
    """Bytes of the running notebooks' processes, summed.

    Each one's peak is noted, and the processor's seconds that it has used.
    """
    import psutil

    total = 0
    for notebook in running:
        try:
            process = psutil.Process(notebook.process.pid)
            family = [process, *process.children(recursive=True)]
            used = sum(member.memory_info().rss for member in family)
            times = [member.cpu_times() for member in family]
        except psutil.Error:
            continue
        notebook.peak_bytes, total = max(notebook.peak_bytes, used), total + used
        spent = sum(time.user + time.system for time in times)
        notebook.cpu_seconds = max(notebook.cpu_seconds, spent)
    return total


def kill_process(process: subprocess.Popen | None) -> None:
    """End a notebook's process and its kernel."""
    import psutil

    if process is None or process.poll() is not None:
        return
    try:
        top = psutil.Process(process.pid)
        for member in (top, *top.children(recursive=True)):
            member.kill()
    except psutil.Error:
        pass


def execute_notebook(
    path: str, out_folder: str, parameters: str, cell_timeout: int
) -> int:
    """Execute one notebook, in its process; the last line on stderr is its error."""
    import papermill
    from nbclient.exceptions import CellTimeoutError
    from papermill.exceptions import PapermillExecutionError

    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    source, given = Path(path), json.loads(parameters)
    kinds = [cell["cell_type"] for cell in fingerprint.notebook_cells(source)]
    cells = kinds.count("code") + bool(given)  # papermill adds a cell for parameters
    position = Position(0, cells)
    positions = Path(out_folder).parents[1] / "positions"

    def note_position(cell, cell_index):
        nonlocal position
        if cell.cell_type == "code":
            position = Position(position.cell + 1, cells, position.section)
            with open(positions, "a") as file:
                print(json.dumps([*vars(position).values()]), file=file)
        elif headings := re.findall(r"^#{1,6} +(.+)$", cell.source, re.MULTILINE):
            position = Position(position.cell, cells, headings[-1].strip())

    try:
        papermill.execute_notebook(
            path,
            str(Path(out_folder) / source.name),
            parameters=given,
            kernel_name="python3",
            cwd=str(source.parent),
            progress_bar=False,
            log_output=False,
            execution_timeout=cell_timeout,
            on_cell_start=note_position,
        )
        safe_text.escape_outputs(Path(out_folder) / source.name)
        return 0
    except PapermillExecutionError as error:
        message = str(error.evalue).strip().splitlines() or [""]
        reason = f"{error.ename}: {message[0]} (cell {position.cell})"
    except CellTimeoutError:
        reason = (
            f"cell {position.cell} ({position.section or 'no heading'}) took longer "
            f"than {cell_timeout} s: CELL_TIMEOUT=seconds (--cell-timeout) allows more"
        )
    except Exception as error:
        where = f" (cell {position.cell})" if position.cell else ""
        reason = f"{type(error).__name__}: {error}{where}"
    print(" ".join(reason.split()), file=sys.stderr)
    return 1


def _end_with(parent: int) -> None:
    """End when the parent does, however it ended; and the kernel with us."""
    import psutil

    while os.getppid() == parent:
        time.sleep(0.5)
    for kernel in psutil.Process().children(recursive=True):
        kernel.kill()
    os._exit(1)
