"""python -m benchmarks: measure, and keep figures/bench/ (see `make bench`).

    speed.csv     a line a shape and contestant      rounds.csv    each timing behind it
    targets.csv   met or not                         profile.csv   where the time goes
    products.csv  one row times every weight matrix  mixing.csv    gather against dense
    growth.csv    seconds over steps                 machine.json  where it ran
    speed.png, .svg and .alt.json

Shapes measured before and not asked for now keep their rows.
"""

import argparse
import json
import sys

import pandas as pd
import torch

from benchmarks import measure, report
from benchmarks.contestants import PROMPT, QWEN_TABLE, SHAPES, contestants
from harness import figures, files
from helpers.models import pick_device

KS = (1, 4, 16, 50, 200, 1000, 4000, 16000, 50000)
LENGTHS = (32, 64, 128, 256, 512)
MIN_SECONDS = {"gpt2_124m": 200}  # about ten rounds where one takes twenty
LONGEST = {"appendix": 128}  # steps: it recomputes the prefix, minutes beyond this


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, metavar="SHAPE")
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lengths", type=int, nargs="*", default=LENGTHS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default="", help="folder, instead of figures/bench")
    parser.add_argument("--draw", action="store_true", help="only draw it again")
    parser.add_argument("--alone", nargs=2, metavar=("SHAPE", "CONTESTANT"))
    args = parser.parse_args(argv)
    if args.draw:
        draw(files.figures_dir("bench", args.out))
        return 0
    device = pick_device(args.device)
    if args.alone:
        print(measure.peak_of_this_process(*args.alone, args.steps, device))
        return 0
    names = args.shapes or ["mini_qwen2", "gpt2_124m"]
    if not args.shapes and device == "cuda":
        names.append("qwen_1_5b")
    about = measure.machine(device)
    if about["load average"] > 0.5:
        print(
            f"load average {about['load average']}: other programs are running, "
            "so these timings are not to be quoted",
            file=sys.stderr,
        )
    tables = run(names, device, args)
    folder = files.figures_dir("bench", args.out)
    tables = {
        name: merge_with_kept(table, name, folder) for name, table in tables.items()
    }
    measured = (tables[name] for name in ("speed", "rounds", "growth"))
    tables["targets"] = report.targets(*measured)
    save_tables(tables, about, folder)
    for name in ("speed", "targets"):
        print(tables[name].round(3).to_string(index=False))
    return 0


def run(names, device, args) -> dict[str, pd.DataFrame]:
    """Measure all shapes -> name of a csv file: its table."""
    kept = ("speed", "rounds", "growth", "mixing", "profile", "products")
    tables = {n: [] for n in kept}
    sizes = {} if names == ["tiny"] else {"qwen_1_5b": QWEN_TABLE}  # the table alone
    copied = measure.bandwidth(device)
    for name in names:
        print(f"{name} on {device}", file=sys.stderr)
        lm = SHAPES[name](device)
        who = contestants(lm, args.steps)
        rounds = measure.interleaved(
            who, args.rounds, min_seconds=MIN_SECONDS.get(name, 30)
        )
        rounds = rounds.assign(shape=name)
        part = report.summarise(rounds, name, args.steps)
        part["peak mb"] = [
            measure.peak_memory(name, c, args.steps, device) for c in part.contestant
        ]
        least = measure.bytes_a_step(lm, PROMPT + args.steps / 2) / copied
        used = least * 1e3 / part["ms a step"]
        part["bandwidth used"] = used.where(part.batch == 1)
        tables["speed"].append(part)
        tables["rounds"].append(rounds)
        tables["profile"].append(measure.profile(who).assign(shape=name))
        lengths = [n for n in args.lengths if n + PROMPT <= lm.context]
        part = measure.growth(lm, lengths, max(2, args.rounds // 3), LONGEST)
        tables["growth"].append(part.assign(shape=name))
        if device == "cpu":
            tables["products"].append(measure.products(lm).assign(shape=name))
        sizes[name] = tuple(lm.embed.shape)
        del lm, who
        if device == "cuda":
            torch.cuda.empty_cache()
    for name, size in sizes.items():
        part = measure.mixing([size], (*KS, size[0]), device=device)
        tables["mixing"].append(part.assign(shape=name))
    return {n: pd.concat(p, ignore_index=True) for n, p in tables.items() if p}


def merge_with_kept(table, name, folder) -> pd.DataFrame:
    """Add the rows that an earlier run kept for other shapes."""
    path = folder / f"{name}.csv"
    if path.exists():
        kept = pd.read_csv(path)
        table = pd.concat([table, kept[~kept["shape"].isin(table["shape"])]])
    order = {shape: i for i, shape in enumerate(SHAPES)}
    return table.sort_values("shape", key=lambda s: s.map(order), kind="stable")


def save_tables(tables, about, folder) -> None:
    """Write the files, each whole or not at all."""
    about["load average after"] = measure.machine("cpu")["load average"]
    for name, table in tables.items():
        text = table.to_csv(index=False, float_format="%.4g", lineterminator="\n")
        files.write_whole(folder / f"{name}.csv", text)
    files.write_whole(folder / "machine.json", json.dumps(about, indent=1) + "\n")
    draw(folder)


def draw(folder) -> None:
    """Draw speed.png, .svg and its text from the csv files in folder."""
    shown = [pd.read_csv(folder / f"{n}.csv") for n in ("speed", "growth", "mixing")]
    figure, alt = report.picture(*shown), report.alt_text(*shown)
    figures.save(figure, shown[0], "speed", alt, "bench", figures_dir=str(folder))


if __name__ == "__main__":
    raise SystemExit(main())
