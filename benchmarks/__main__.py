"""python -m benchmarks: measure, and keep figures/bench/ (see `make bench`).

    speed.csv     a line a shape and contestant      targets.csv   met or not
    growth.csv    seconds over steps                 mixing.csv    gather against dense
    summary.csv   the README's table                 machine.json  where it ran
    speed.png, .svg and .alt.json                    one picture of the first three
"""

import argparse
import json
import sys

import pandas as pd
import torch

from benchmarks import measure, report
from benchmarks.contestants import PROMPT, SHAPES, contestants
from helpers import figures, files
from helpers.models import pick_device

KS = (1, 4, 16, 50, 200, 1000, 4000, 16000, 50257)
LENGTHS = (32, 64, 128, 256, 512)
LONGEST = {"appendix": 128}  # steps: it recomputes the prefix, minutes beyond this


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(prog="benchmarks")
    parser.add_argument("--shapes", nargs="*", choices=SHAPES, metavar="SHAPE")
    parser.add_argument("--steps", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--lengths", type=int, nargs="*", default=LENGTHS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", default="", help="folder, instead of figures/bench")
    parser.add_argument("--alone", nargs=2, metavar=("SHAPE", "CONTESTANT"))
    args = parser.parse_args(argv)
    device = pick_device(args.device)
    if args.alone:
        print(measure.alone(*args.alone, args.steps, device))
        return 0
    names = args.shapes or ["mini_qwen2", "gpt2_124m"]
    if not args.shapes and device == "cuda":
        names.append("qwen_1_5b")
    about = measure.machine(device)
    if about["load average"] > 0.5:
        print(f"load average {about['load average']}: other programs are running, "
              "so these timings are not to be quoted", file=sys.stderr)  # fmt: skip
    kept = run(names, device, args)
    keep(*kept, about, args.out)
    print(kept[0].round(3).to_string(index=False))
    print(report.targets(*kept[:2]).round(3).to_string(index=False))
    return 0


def run(names, device, args) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Measure all shapes: speed, growth, mixing."""
    speed, grown, mixed = [], [], []
    copied = measure.bandwidth(device) if device == "cuda" else None
    for name in names:
        print(f"{name} on {device}", file=sys.stderr)
        lm = SHAPES[name](device)
        who = contestants(lm, args.steps)
        part = report.summarise(measure.interleaved(who, args.rounds), name, args.steps)
        part["peak mb"] = [
            measure.peak_memory(name, c, args.steps, device) for c in part.contestant
        ]
        if copied:
            least = measure.bytes_a_step(lm, PROMPT + args.steps / 2) / copied
            used = least * 1e3 / part["ms a step"]
            part["bandwidth used"] = used.where(part.batch == 1)
        speed.append(part)
        lengths = [n for n in args.lengths if n + PROMPT <= lm.context]
        part = measure.growth(lm, lengths, max(2, args.rounds // 3), LONGEST)
        grown.append(part.assign(shape=name))
        size = tuple(lm.embed.shape)
        mixed.append(measure.mixing([size], (*KS, size[0]), device=device))
        del lm, who
        if device == "cuda":
            torch.cuda.empty_cache()
    return tuple(pd.concat(parts, ignore_index=True) for parts in (speed, grown, mixed))


def keep(speed, grown, mixed, about, out) -> None:
    """Write the files, each whole or not at all."""
    folder = files.figures_dir("bench", out)
    about["load average after"] = measure.machine("cpu")["load average"]
    tables = {
        "growth": grown, "mixing": mixed, "summary": report.readable(speed),
        "targets": report.targets(speed, grown),
    }  # fmt: skip
    drawn = report.picture(speed, grown, mixed)
    told = report.told(speed, grown, mixed)
    figures.save(drawn, speed, "speed", told, "bench", figures_dir=str(folder))
    for name, table in tables.items():
        text = table.to_csv(index=False, float_format="%.4g", lineterminator="\n")
        files.write_whole(folder / f"{name}.csv", text)
    files.write_whole(folder / "machine.json", json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
