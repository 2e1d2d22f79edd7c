"""Train all that notebook 06 rests on: `make learn`, or `python -m` this folder.

Writes models/learned/. A killed run goes on where it was: what is finished lies in
models/_work/learned/ until all is. Everything is seeded, on one thread.
"""

from __future__ import annotations

import argparse
import json
import time

import pandas as pd
import torch
from safetensors.torch import load_file, save

from experiments.prompts import SUITES, sample_open
from experiments.stats import bootstrap, clustered
from experiments.trained_reading import (
    exploring,
    learned,
    reader,
    reading,
    searching,
    thinking,
)
from experiments.trained_reading.signed_sums import split
from harness.files import ROOT, write_whole
from helpers.models import LM, load

WORK = ROOT / "models" / "_work" / "learned"
THINKERS = [
    (kind, width, seed)
    for width in reversed(thinking.WIDTHS)
    for seed in learned.SEEDS
    for kind in thinking.KINDS
    if width == thinking.WIDTH or (kind in ("mixture", "token") and not seed)
]
READERS = [
    (kind, fold, seed)
    for seed in learned.SEEDS
    for fold in reader.FOLDS
    for kind in reader.KINDS
]
SEARCHERS = [
    (f"{learned.GRAPH}{arm}", seed) for seed in learned.SEEDS for arm in searching.ARMS
]
AFTER = (0, 10, 30, 100, 200, 350, 500)  # steps at which the curve is measured
Tables = dict[str, list[dict]]  # rows of what is committed, by table


def learn_thinker(kind: str, width: int, seed: int) -> tuple[dict, Tables]:
    """Train one thinker -> its tensors in half precision, and its answers by way."""
    known, held_out = split()
    model = thinking.train(kind, known, width, seed)
    state = model.transformer.state_dict()
    tensors = {name: t.half().contiguous() for name, t in state.items()}
    model, rows = learned.restore(tensors, thinking.new_model(width)), []
    for way in {"mixture": ("soft", "top"), "token": ("top", "soft")}.get(kind, ()):
        said = exploring.answers(model, held_out, way)
        right = (said == held_out.answer).double().tolist()
        e = clustered(bootstrap, held_out.multiset.tolist(), right)
        row = {"kind": kind, "width": width, "seed": seed, "way": way}
        rows.append(row | {"value": e.value, "low": e.low, "high": e.high, "n": e.n})
    return tensors, {"widths": rows}


def learn_reader(kind: str, fold: str, seed: int) -> tuple[dict, Tables]:
    """Train one reader or control -> its update, and what it reads and costs."""
    lm, curve = load("mini-gpt2", "cpu"), []
    asked = sample_open(SUITES, 1000)
    held = [item for item in asked if reading.fold_of(item.prompt) == fold]
    watched = asked if kind == "reader" else held
    about = {"kind": kind, "seed": seed, "fold": fold}

    def report(step: int, model: torch.nn.Module) -> None:
        if step in AFTER:
            found = reading.reading_rows(LM(model, lm.tokenizer), watched)
            sums = reading.sums_by_template(found).to_dict("records")
            curve.extend(about | {"step": step} | row for row in sums)

    model = reader.train_reader(lm, fold, kind, seed, report=report)
    update = reader.update_of(model, lm.model)
    trained = reader.merge(lm, update)
    rows = reading.reading_rows(trained, asked).to_dict("records")
    costs = enumerate(
        reading.document_nll(trained, reading.documents(reading.DOCUMENTS))
    )
    nll = [about | {"document": i, "nll": x} for i, x in costs]
    readings = [about | row for row in rows]
    return update, {"curve": curve, "readings": readings, "nll": nll}


def learn_searcher(name: str, seed: int) -> tuple[dict, Tables]:
    """Train one model to search graphs -> its tensors, and which answers are right."""
    arm = name.removeprefix(learned.GRAPH)
    model = searching.train(arm, searching.known(), seed)
    state = model.transformer.state_dict()
    tensors = {key: t.half().contiguous() for key, t in state.items()}
    model, asked = learned.restore(tensors, searching.new_model()), searching.held_out()
    between, _ = searching.ARMS[arm]
    right = searching.reply(model, between, asked)[0] == asked.answer
    digits = "".join(map(str, right.int().tolist()))
    return tensors, {"searches": [{"arm": arm, "seed": seed, "right": digits}]}


def finished(name: str) -> bool:
    """Whether a job's files are there: the tensors are written last."""
    return (WORK / f"{name}.safetensors").exists()


def run(name: str, learn, *what) -> None:
    """Do one job and keep what came of it."""
    start = time.process_time()
    tensors, tables = learn(*what)
    seconds = round(time.process_time() - start, 1)
    tables["costs"] = [{"job": name, "kind": what[0], "seconds": seconds}]
    write_whole(WORK / f"{name}.json", json.dumps(tables))
    write_whole(WORK / f"{name}.safetensors", save(tensors))
    print(f"{name}: {seconds:.0f} s", flush=True)


def is_kept(name: str) -> bool:
    """Whether a model's weights are committed."""
    if name.startswith(reader.KINDS):
        return name.startswith("reader") and name.endswith("-0")
    if name.startswith(learned.GRAPH):
        return name.removeprefix(learned.GRAPH).split("-")[0] in learned.THINKING
    return f"-{thinking.WIDTH}-" in name


def gather(done: dict[str, list[str]]) -> None:
    """Put finished jobs together in models/learned/, and clear the work away.

    done: a file of weights -> its jobs. What other jobs left there is kept.
    """
    tensors: dict[str, dict] = {which: {} for which in done}
    tables: Tables = {}
    for name, which in {name: w for w, names in done.items() for name in names}.items():
        if is_kept(name):
            for key, tensor in load_file(WORK / f"{name}.safetensors").items():
                tensors[which][f"{name}/{key}"] = tensor
        for table, rows in json.loads((WORK / f"{name}.json").read_text()).items():
            tables.setdefault(table, []).extend(rows)
    costs = learned.FOLDER / "costs.csv"
    if costs.exists():
        again = {row["job"] for row in tables["costs"]}
        before = pd.read_csv(costs).to_dict("records")
        tables["costs"][:0] = [row for row in before if row["job"] not in again]
    for which in done:
        write_whole(learned.FOLDER / learned.WEIGHTS[which], save(tensors[which]))
    for table, rows in tables.items():
        how = {"index": False, "float_format": "%.5g", "lineterminator": "\n"}
        text = pd.DataFrame(rows).to_csv(**how)
        write_whole(learned.FOLDER / f"{table}.csv", text)
    for name in sum(done.values(), []):
        for path in WORK.glob(f"{name}.*"):
            path.unlink()


def main() -> None:
    """Train what is not finished, of all or of the jobs whose names are given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("only", nargs="*", metavar="NAME", help="beginnings of jobs")
    only = tuple(parser.parse_args().only)
    listed = {
        "thinkers": (learn_thinker, THINKERS),
        "readers": (learn_reader, READERS),
        "searchers": (learn_searcher, SEARCHERS),
    }
    names = {which: [] for which in listed}
    for which, (learn, jobs) in listed.items():
        for job in jobs:
            name = "-".join(map(str, job))
            names[which].append(name)
            if not finished(name) and name.startswith(only or ""):
                run(name, learn, *job)
    done = {w: n for w, n in names.items() if n and all(map(finished, n))}
    if done:
        gather(done)
        minutes = learned.costs().seconds.sum() / 60
        print(f"{learned.FOLDER.relative_to(ROOT)}: {minutes:.0f} CPU minutes")


if __name__ == "__main__":
    main()
