"""What a run is asked for: every setting checked before torch or a notebook is started.

    run_request       the settings of `reproduce` -> a RunRequest
    choose_models     which models
    select_notebooks  which notebooks
    set_sizes         models/sizes.csv: how much a set's notebooks are asked
    fit_parameters    what differs from each notebook's defaults, typed like them
    check_template    a chat template that ends, and in reason
    check_models      both models found, complete, fitting and of the right kind
    model_hashes      what both are, to tell whether they have changed

Every refusal is a ValueError, FileNotFoundError or OSError of one line.
"""

import ast
import csv
import logging
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from harness import files, fingerprint
from helpers import checkpoints, models
from models import public

MODEL_SETS = {  # name -> base model, instruction-tuned model
    "mini": ("mini-gpt2", "mini-qwen2"),
    "paper": (checkpoints.GPT2[0], checkpoints.QWEN[0]),
}


SIZES = files.ROOT / "models" / "sizes.csv"
NO_SETS = ("bench",)  # folders of figures/ that other commands fill


def public_sets() -> dict[str, str]:
    """Sets of one public model, used as base and as instruct -> the model's name."""
    return {model.set: model.name for model in public.public_models().values()}


@dataclass(frozen=True)
class RunRequest:
    """What `reproduce` was asked for, checked; `run_request` makes it."""

    set_name: str
    common_parameters: dict[str, str]  # for all notebooks, as text
    notebooks: list[tuple[Path, dict]]  # each with the parameters it is given
    sizes: dict[str, dict[str, str]]  # those of them that models/sizes.csv gives
    cell_timeout: int  # seconds that one cell may take
    jobs: int  # notebooks side by side; 0: as many as fit
    force: bool  # run even what is up to date
    is_complete: bool  # every notebook that answers claims, not a selection


def run_request(
    set_name: str = "mini",
    base: str | None = None,
    instruct: str | None = None,
    device: str = "auto",
    dtype: str | None = None,
    seed: int | None = None,
    parameters: Sequence[str] = (),
    only: Sequence[str] = (),
    jobs: int = 0,
    cell_timeout: int | None = None,
    force: bool = False,
    notebooks: str | Path = fingerprint.NOTEBOOKS,
) -> RunRequest:
    """Check every setting and both models.

    parameters: "NAME=value" each; only: numbers or names of notebooks; cell_timeout:
    None is 600 s for mini, whose longest cell takes well under a minute, else an hour.
    dtype: None is float32, or what models/sizes.csv says of a set's notebook.
    """
    if files.check_set_name(set_name) in NO_SETS:
        raise ValueError(f"SET={set_name!r}: figures/{set_name}/ is kept by make bench")
    base, instruct = choose_models(set_name, base, instruct)
    if not re.fullmatch(models.DEVICES, device):
        raise ValueError(f"DEVICE={device!r}: expected auto, cpu, cuda, cuda:N or mps")
    if dtype is not None and dtype not in models.DTYPES:
        known = ", ".join(models.DTYPES)
        raise ValueError(f"DTYPE={dtype!r}: expected one of {known}")
    if seed is not None and not 0 <= seed < 2**32:
        raise ValueError(f"SEED={seed}: expected 0 to {2**32 - 1}")
    if jobs < 0:
        raise ValueError(f"JOBS={jobs}: expected 0 (as fits) or more")
    if cell_timeout is None:
        cell_timeout = 600 if set_name == "mini" else 3600
    if cell_timeout < 1:
        raise ValueError(f"CELL_TIMEOUT={cell_timeout}: expected at least 1 second")
    common = {"SET": set_name, "BASE": base, "INSTRUCT": instruct, "DEVICE": device}
    common |= {} if seed is None else {"SEED": str(seed)}
    common |= {} if dtype is None else {"DTYPE": dtype}
    for pair in parameters:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"PARAMS={pair!r}: expected NAME=value")
        if name in (*common, "DTYPE", "SEED", "RUN_DIR", "FIGURES_DIR"):
            raise ValueError(f"PARAMS={pair!r}: {name} has a setting of its own")
        common[name] = value
    paths = select_notebooks(Path(notebooks), only)
    sizes = set_sizes(set_name, [path.stem for path in paths], common)
    common.setdefault("DTYPE", "float32")
    if set_name in public_sets():  # downloaded now, after all else was found in order
        folder = str(public.fetch(public_sets()[set_name]))
        common |= {"BASE": folder, "INSTRUCT": folder}
    fitted = list(zip(paths, fit_parameters(paths, common, sizes)))
    check_models(
        common, [parameters.get("DTYPE", "float32") for _, parameters in fitted]
    )
    if common["INSTRUCT"] and set_name not in {*MODEL_SETS, *public_sets()}:
        check_template(common["INSTRUCT"])
    how = cell_timeout, jobs, force, not only
    return RunRequest(set_name, common, fitted, sizes, *how)


def choose_models(
    set_name: str, base: str | None, instruct: str | None
) -> tuple[str, str]:
    """The base and the instruction-tuned model ("": none) of a set, or as asked."""
    if set_name in MODEL_SETS:
        ours = MODEL_SETS[set_name]
        for word, given, own in zip(("BASE", "INSTRUCT"), (base, instruct), ours):
            if given not in (None, "", own):
                raise ValueError(
                    f"{word}={given!r}: SET={set_name} is {' and '.join(ours)}; "
                    "give your own models a set of their own, SET=name"
                )
        return ours
    if set_name in public_sets():
        if base or instruct:
            raise ValueError(
                f"SET={set_name} is {public_sets()[set_name]}: leave BASE and INSTRUCT "
                "out, or give your own models a set of their own, SET=name"
            )
        return public_sets()[set_name], public_sets()[set_name]
    if not base:
        known = ", ".join([*MODEL_SETS, *public_sets()])
        raise ValueError(
            f"SET={set_name!r} needs BASE=<folder or hub id>; only {known} have models"
        )
    return _local(base), _local(instruct or "")


def _local(model: str) -> str:
    """A folder as an absolute path: notebooks run in their own folder."""
    if not model or model in checkpoints.EMBEDDED:
        return model
    folder = Path(model).expanduser()
    return str(folder.resolve()) if folder.is_dir() else model


def check_models(common: dict[str, str], dtypes: Sequence[str]) -> None:
    """Find both models, or say in one line what is wrong. dtypes: the notebooks'."""
    base, instruct = common["BASE"], common["INSTRUCT"]
    if instruct and base != instruct and Path(base).name == Path(instruct).name:
        raise ValueError(
            f"BASE and INSTRUCT are both called {Path(base).name!r}, and results go by "
            "that name: rename one of the folders"
        )
    for word in ("BASE", "INSTRUCT"):
        if not common[word]:
            continue
        folder, _ = checkpoints.find_checkpoint(common[word])
        checkpoints.verify_checkpoint(folder)
        if word == "INSTRUCT" and not _has_template(folder):
            raise ValueError(
                f"INSTRUCT={common[word]!r} has no chat template: leave INSTRUCT out, "
                "or give an instruction-tuned model"
            )
        width = max(models.DTYPES[dtype] for dtype in dtypes)
        need = checkpoints.count_parameters(folder) * width
        if common["DEVICE"] in ("auto", "cpu"):
            checkpoints.check_memory(
                common[word], need, checkpoints.free_memory(), "memory"
            )
    if common["DEVICE"] not in ("auto", "cpu"):
        models.pick_device(common["DEVICE"])


RENDER = """
import resource, sys, types
if sys.platform == "linux":
    resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
from transformers import AutoTokenizer
from helpers.models import LOCAL, chat_prompt
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1], **LOCAL)
try:
    print(len(chat_prompt(types.SimpleNamespace(tokenizer=tokenizer), "hello")))
except ValueError as error:
    sys.exit(str(error))
"""
MOST_RENDERED = 10**5  # characters around one word of a user
RENDER_SECONDS = 60


def check_template(instruct: str) -> None:
    """Refuse a chat template that fails, loops or floods: rendered once, apart."""
    folder, _ = checkpoints.find_checkpoint(instruct)
    command = [sys.executable, "-c", RENDER, str(folder)]
    how = {"cwd": files.ROOT, "capture_output": True, "text": True}
    try:
        done = subprocess.run(command, timeout=RENDER_SECONDS, **how)
        wrong = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        if done.returncode == 0 and int(done.stdout) > MOST_RENDERED:
            wrong = f"it makes {int(done.stdout)} characters of one word"
        elif done.returncode == 0:
            return
    except subprocess.TimeoutExpired:
        wrong = f"it does not end in {RENDER_SECONDS} s"
    raise ValueError(
        f"INSTRUCT={instruct!r}: its chat template is unfit: {wrong[:200]}"
    )


def model_hashes(common: dict[str, str]) -> dict[str, str]:
    """What each model is: its pinned revision, or the hash of its files."""
    hashes = {}
    for word in ("BASE", "INSTRUCT"):
        if common[word]:
            folder, revision = checkpoints.find_checkpoint(common[word])
            hashes[word] = revision or fingerprint.model_digest(folder)
    return hashes


def _has_template(folder: Path) -> bool:
    config = folder / "tokenizer_config.json"
    text = config.read_text(encoding="utf-8") if config.exists() else ""
    return '"chat_template"' in text or any(folder.glob("chat_template*"))


def select_notebooks(folder: Path, only: Sequence[str]) -> list[Path]:
    """The notebooks to run: 01 and up, or those named."""
    present = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not only:
        return [path for path in present if not path.name.startswith("00")]
    by_name = {path.stem: path for path in present}
    by_number = {path.stem.split("_")[0]: path for path in present}
    unknown = {*only} - {*by_name} - {*by_number}
    if unknown:
        raise ValueError(
            f"no notebook {min(unknown)!r}: expected one of {', '.join(by_name)}"
        )
    return sorted({(by_number | by_name)[name] for name in only})


def set_sizes(
    set_name: str, notebooks: Sequence[str], given: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """Read how much a set's notebooks are asked: notebook -> parameter -> value.

    Rows of models/sizes.csv for a larger model, which is asked less than the notebooks'
    defaults, or in bfloat16. A parameter that the user gives comes before them, in all
    notebooks.
    """
    with SIZES.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["set"] == set_name]
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["notebook"] in notebooks and row["parameter"] not in given:
            found.setdefault(row["notebook"], {})[row["parameter"]] = row["value"]
    return found


def fit_parameters(
    notebooks: list[Path],
    common: dict[str, str],
    sizes: Mapping[str, Mapping[str, str]] = MappingProxyType({}),
) -> list[dict]:
    """For each notebook the parameters that differ from its defaults, typed like them.

    sizes: notebook -> parameters of its own. Papermill only warns of a parameter a
    notebook does not have; here it is an error.
    """
    from papermill import inspect_notebook

    logging.getLogger("papermill").setLevel(logging.ERROR)
    defaults: list[dict[str, str]] = []  # of each notebook, as literals
    for path in notebooks:
        fingerprint.notebook_cells(path)  # refuses what is not a notebook
        found = inspect_notebook(str(path))
        defaults.append({name: about["default"] for name, about in found.items()})
    known = sorted({name for own in defaults for name in own})
    for name, value in common.items():
        if name not in known and value not in ("", None):
            raise ValueError(
                f"no notebook has a parameter {name!r}; they have {', '.join(known)}"
            )
    fitted = []
    for path, own in zip(notebooks, defaults):
        sized = sizes.get(path.stem, {})
        for name in {*sized} - {*own}:
            raise ValueError(
                f"models/sizes.csv: {path.stem} has no parameter {name!r}; it has "
                f"{', '.join(sorted(own))}"
            )
        asked = common | sized
        typed = {n: _typed(n, v, own[n]) for n, v in asked.items() if n in own}
        fitted.append({n: v for n, v in typed.items() if v != ast.literal_eval(own[n])})
    return fitted


def _typed(name: str, value: str, default: str):
    """`value` as the type of the default's literal."""
    kind = type(ast.literal_eval(default))
    try:
        if kind is str:
            return value
        typed = ast.literal_eval(value)
        if kind is float and type(typed) is int:
            return float(typed)
        if type(typed) is kind:
            return typed
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    raise ValueError(f"{name}={value!r}: expected {kind.__name__}, like {default}")
