"""What a run was asked for, checked before torch or a notebook is started.

    settings         command line -> the notebooks' common parameters
    check_models     both models found, whole, fitting and of the right kind
    model_hashes     what both are, to tell whether they have changed
    choose           which notebooks
    fit_parameters   for each notebook what differs from its defaults, typed like them

Every refusal is a ValueError, FileNotFoundError or OSError of one line.
"""

import ast
import logging
import re
from pathlib import Path

from harness import files, fingerprint
from helpers import checkpoints, models


def notebook_parameters(args) -> dict[str, str]:
    """The notebooks' common parameters from the command line; ValueError if unfit."""
    files.check_set(args.set)
    base, instruct = args.base, args.instruct
    if args.set in models.SETS:
        ours = models.SETS[args.set]
        for word, given, own in zip(("BASE", "INSTRUCT"), (base, instruct), ours):
            if given not in (None, "", own):
                raise ValueError(
                    f"{word}={given!r}: SET={args.set} is {' and '.join(ours)}; "
                    "give your own models a set of their own, SET=name"
                )
        base, instruct = ours
    elif not base:
        known = " and ".join(models.SETS)
        raise ValueError(
            f"SET={args.set!r} needs BASE=<folder or hub id>; only {known} have models"
        )
    if not re.fullmatch(models.DEVICES, args.device):
        raise ValueError(
            f"DEVICE={args.device!r}: expected auto, cpu, cuda, cuda:N or mps"
        )
    if args.dtype not in models.DTYPES:
        known = ", ".join(models.DTYPES)
        raise ValueError(f"DTYPE={args.dtype!r}: expected one of {known}")
    if args.seed is not None and not 0 <= args.seed < 2**32:
        raise ValueError(f"SEED={args.seed}: expected 0 to {2**32 - 1}")
    if args.jobs < 0:
        raise ValueError(f"JOBS={args.jobs}: expected 0 (as fits) or more")
    out = {"SET": args.set, "BASE": _local(base), "INSTRUCT": _local(instruct or "")}
    out |= {"DEVICE": args.device, "DTYPE": args.dtype}
    if args.seed is not None:
        out["SEED"] = str(args.seed)
    for pair in args.parameter:
        name, equals, value = pair.partition("=")
        if not equals or not name.isidentifier():
            raise ValueError(f"PARAMS={pair!r}: expected NAME=value")
        if name in (*out, "SEED", "RUN_DIR", "FIGURES_DIR"):
            raise ValueError(f"PARAMS={pair!r}: {name} has a setting of its own")
        out[name] = value
    return out


def _local(model: str) -> str:
    """A folder as an absolute path: notebooks run in their own folder."""
    there = (
        model
        and model not in checkpoints.EMBEDDED
        and Path(model).expanduser().is_dir()
    )
    return str(Path(model).expanduser().resolve()) if there else model


def check_models(common: dict[str, str]) -> None:
    """Find both models, or say in one line what is wrong."""
    base, instruct = common["BASE"], common["INSTRUCT"]
    if base != instruct and Path(base).name == Path(instruct).name:
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
        need = checkpoints.count_parameters(folder) * models.DTYPES[common["DTYPE"]]
        if common["DEVICE"] in ("auto", "cpu"):
            checkpoints.check_memory(
                common[word], need, checkpoints.free_memory(), "memory"
            )
    if common["DEVICE"] not in ("auto", "cpu"):
        models.pick_device(common["DEVICE"])


def model_hashes(common: dict[str, str]) -> dict[str, str]:
    """What each model is: its pinned revision, or the hash of its files."""
    named = {word: common[word] for word in ("BASE", "INSTRUCT") if common[word]}
    found = {word: checkpoints.find_checkpoint(name) for word, name in named.items()}
    return {
        w: revision or fingerprint.model_digest(f) for w, (f, revision) in found.items()
    }


def _has_template(folder: Path) -> bool:
    config = folder / "tokenizer_config.json"
    text = config.read_text(encoding="utf-8") if config.exists() else ""
    return '"chat_template"' in text or any(folder.glob("chat_template*"))


def select_notebooks(notebooks: Path, only: list[str]) -> list[Path]:
    """The notebooks to run: 01 and up, or those named."""
    there = sorted(notebooks.glob("[0-9][0-9]_*.ipynb"))
    if not only:
        return [p for p in there if not p.name.startswith("00")]
    chosen = [p for p in there if p.stem in only or p.stem.split("_")[0] in only]
    unknown = (
        {*only} - {p.stem for p in chosen} - {p.stem.split("_")[0] for p in chosen}
    )
    if unknown:
        known = ", ".join(p.stem for p in there)
        raise ValueError(f"no notebook {min(unknown)!r}: expected one of {known}")
    return chosen


def fit_parameters(notebooks: list[Path], common: dict[str, str]) -> list[dict]:
    """For each notebook the parameters that differ from its defaults, typed like them.

    Papermill only warns of a parameter a notebook does not have; here it is an error.
    """
    from papermill import inspect_notebook

    logging.getLogger("papermill").setLevel(logging.ERROR)
    known: list[dict] = []
    for path in notebooks:
        fingerprint.notebook_cells(path)  # refuses what is not a notebook
        known.append({k: v["default"] for k, v in inspect_notebook(str(path)).items()})
    for name, value in common.items():
        if not any(name in defaults for defaults in known) and value not in ("", None):
            there = ", ".join(sorted({n for defaults in known for n in defaults}))
            raise ValueError(f"no notebook has a parameter {name!r}; they have {there}")
    out = []
    for defaults in known:
        mine = {
            k: _typed(k, v, defaults[k]) for k, v in common.items() if k in defaults
        }
        own = {k: ast.literal_eval(defaults[k]) for k in mine}
        out.append({k: v for k, v in mine.items() if v != own[k]})
    return out


def _typed(name: str, value: str, default: str):
    """`value` as the type of the default's literal."""
    kind = type(ast.literal_eval(default))
    try:
        if kind is str:
            return value
        got = ast.literal_eval(value)
        if kind is float and type(got) is int:
            return float(got)
        if type(got) is kind:
            return got
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        pass
    raise ValueError(f"{name}={value!r}: expected {kind.__name__}, like {default}")
