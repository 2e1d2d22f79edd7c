"""Train all that notebook 06 rests on: `make learn`, or `python -m` this folder.

Writes models/learned/. A killed run goes on where it was: what is finished lies in
models/_work/learned/ until all is. Everything is seeded, on one thread.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import load_file, save

from experiments.prompts import SUITES, sample_open
from experiments.stats import bootstrap, clustered
from experiments.trained_reading import exploring, learned, reader, reading, thinking
from experiments.trained_reading.signed_sums import split
from harness.files import ROOT, write_whole
from helpers.models import LM, load

WORK = ROOT / "models" / "_work" / "learned"
THINKERS = [
    (kind, width, seed)
    for width in reversed(thinking.WIDTHS)
    for seed in learned.SEEDS
    for kind in thinking.KINDS
    if width == thinking.WIDTH or kind in ("mixture", "token")
]
READERS = [
    (kind, fold, seed)
    for seed in learned.SEEDS
    for fold in reader.FOLDS
    for kind in reader.KINDS
]
AFTER = (0, 3, 10, 30, 100, 200, 300)  # steps at which the curve is measured


def learn_thinker(kind: str, width: int, seed: int) -> tuple[dict, list[dict]]:
    """Train one thinker -> its tensors in half precision, and its answers by way."""
    known, held_out = split()
    model = thinking.train(kind, known, width, seed)
    state = model.transformer.state_dict()
    tensors = {name: t.half().contiguous() for name, t in state.items()}
    model, rows = learned.restore(tensors, width), []
    for way in {"mixture": ("soft", "top"), "token": ("top", "soft")}.get(kind, ()):
        said = exploring.answers(model, held_out, way)
        right = (said == held_out.answer).double().tolist()
        e = clustered(bootstrap, held_out.multiset.tolist(), right)
        row = {"kind": kind, "width": width, "seed": seed, "way": way}
        rows.append(row | {"value": e.value, "low": e.low, "high": e.high, "n": e.n})
    return tensors, rows


def learn_reader(kind: str, fold: str, seed: int) -> tuple[dict, list[dict]]:
    """Train one reader or control -> its update, and what it reads step by step."""
    lm, rows = load("mini-gpt2", "cpu"), []
    asked = [i for i in sample_open(SUITES, 1000) if reading.fold_of(i) == fold]

    def report(step: int, model: torch.nn.Module) -> None:
        if step in AFTER:
            found = reading.reading_rows(LM(model, lm.tokenizer), asked)
            sums = reading.sums_by_template(found).to_dict("records")
            about = {"kind": kind, "seed": seed, "step": step, "fold": fold}
            rows.extend(about | row for row in sums)

    model = reader.train_reader(lm, fold, kind, seed, report=report)
    return reader.update_of(model), rows


def finished(name: str) -> bool:
    """Whether a job's files are there: the tensors are written last."""
    return (WORK / f"{name}.safetensors").exists()


def run(name: str, learn, *what) -> None:
    """Do one job and keep what came of it."""
    start = time.process_time()
    tensors, rows = learn(*what)
    seconds = round(time.process_time() - start, 1)
    about = {"cost": {"job": name, "seconds": seconds}, "rows": rows}
    write_whole(WORK / f"{name}.json", json.dumps(about))
    write_whole(WORK / f"{name}.safetensors", save(tensors))
    print(f"{name}: {seconds:.0f} s", flush=True)


def gather(jobs: dict[str, list[str]]) -> None:
    """Put finished jobs together in models/learned/, and clear the work away."""
    about = {
        name: json.loads((WORK / f"{name}.json").read_text())
        for names in jobs.values()
        for name in names
    }
    for which, names in jobs.items():
        kept = [n for n in names if which == "readers" or f"-{thinking.WIDTH}-" in n]
        tensors = {
            f"{name}/{key}": tensor
            for name in kept
            for key, tensor in load_file(WORK / f"{name}.safetensors").items()
        }
        write_whole(learned.FOLDER / learned.WEIGHTS[which], save(tensors))
    tables = {
        "widths.csv": [row for n in jobs["thinkers"] for row in about[n]["rows"]],
        "curve.csv": [row for n in jobs["readers"] for row in about[n]["rows"]],
        "costs.csv": [about[n]["cost"] for names in jobs.values() for n in names],
    }
    for name, rows in tables.items():
        text = pd.DataFrame(rows).to_csv(
            index=False, float_format="%.6g", lineterminator="\n"
        )
        write_whole(learned.FOLDER / name, text)
    for path in WORK.iterdir():
        path.unlink()


def main() -> None:
    """Train what is not finished, of all or of the jobs whose names are given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="*", metavar="NAME", help="beginnings of jobs")
    only = tuple(parser.parse_args().only)
    jobs = {"thinkers": {}, "readers": {}}
    for which, learn, listed in (
        ("thinkers", learn_thinker, THINKERS),
        ("readers", learn_reader, READERS),
    ):
        for what in listed:
            jobs[which]["-".join(map(str, what))] = learn, *what
    for name, job in (jobs["thinkers"] | jobs["readers"]).items():
        if not finished(name) and name.startswith(only or ""):
            run(name, *job)
    names = {which: list(own) for which, own in jobs.items()}
    if all(finished(name) for own in names.values() for name in own):
        gather(names)
        spent = learned.costs().seconds.sum() / 60
        print(f"{Path(learned.FOLDER).relative_to(ROOT)}: {spent:.0f} CPU minutes")


if __name__ == "__main__":
    main()
