"""Kill `make reproduce` at ten random moments, or run it twice and otherwise.

    python -m tests.interrupt kills --set mini      ten kill -9, each run then finished
    python -m tests.interrupt twice --set mini      same csv twice; same verdicts on two
                                                    threads, on an old processor

Other options go to `harness.run reproduce`, for example -p N_PROMPTS=10. All output
goes to a folder of its own, so that neither figures/ nor runs/ is touched. Odd kills
fall at a random time of the run, even ones within 50 ms of a file being put in place,
where a half-kept notebook would be. The whole process is killed, or its group too.
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import claims, files
from harness.run import compare

CACHED = {"HF_HUB_OFFLINE": "1"}


def started(out: Path, asked: list[str], **env) -> subprocess.Popen:
    """`harness.run reproduce` with its output under `out`, in a group of its own."""
    command = [sys.executable, "-m", "harness.run", "reproduce", *asked]
    more = os.environ | CACHED | {"REPRODUCE_OUT": str(out)} | env
    log = open(out / "log", "a")
    return subprocess.Popen(
        command, cwd=files.ROOT, env=more, stdout=log, stderr=log,
        start_new_session=True,
    )  # fmt: skip


def finish(out: Path, asked: list[str], **env) -> float:
    """Run to the end; seconds. RuntimeError with its last lines where it fails."""
    began = time.monotonic()
    if started(out, asked, **env).wait():
        tail = (out / "log").read_text()[-2000:]
        raise RuntimeError(f"reproduce did not finish:\n{tail}")
    return time.monotonic() - began


def results(out: Path, kinds=(".csv",)) -> dict[str, bytes]:
    """The kept figures' data and the verdicts, by name."""
    kept = sorted((out / "figures").rglob("*"))
    return {
        p.relative_to(out).as_posix(): p.read_bytes()
        for p in kept
        if p.suffix in kinds and not p.name.startswith(".")
    }


def half_written(out: Path, whole: dict[str, bytes], kinds) -> list[str]:
    """Files in place that differ from the uninterrupted run's: none may."""
    return [
        name for name, data in results(out, kinds).items() if whole.get(name) != data
    ]


def wait_for_kill(out: Path, process, chance, number: int, seconds: float) -> str:
    """Wait for a random moment; what it was."""
    if number % 2:
        moment = chance.uniform(0, seconds)
        time.sleep(moment)
        return f"after {moment:.1f} s"
    count = chance.randint(1, 12)
    while process.poll() is None and len(results(out, (".csv", ".png"))) < count:
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.05))
    return f"as file {count} was put in place"


def kills(asked: list[str], count: int, seed: int, work: Path) -> int:
    """`count` kills; each time the next run finishes with the same results."""
    chance, kinds = random.Random(seed), (".csv", ".png", ".svg")
    (work / "whole").mkdir()
    seconds = finish(work / "whole", asked)
    whole = results(work / "whole", kinds)
    print(f"uninterrupted: {seconds:.0f} s, {len(whole)} files", flush=True)
    if not whole:
        raise RuntimeError("the uninterrupted run left no csv and no picture")
    bad = 0
    number = 0
    while number < count:
        number += 1
        out = work / f"kill{number}"
        out.mkdir()
        process = started(out, asked)
        when = wait_for_kill(out, process, chance, number, seconds)
        if chance.random() < 0.5:
            process.kill()
        else:
            os.killpg(process.pid, signal.SIGKILL)
        status = process.wait()
        if status != -signal.SIGKILL:  # it had ended before: draw another moment
            number -= 1
            shutil.rmtree(out)
            continue
        broken = half_written(out, whole, kinds)
        took = finish(out, asked)
        same = results(out, kinds) == whole
        left = [*out.rglob(".staging/*"), *out.rglob("figures/*/.*")]
        bad += bool(broken or left) or not same
        print(
            f"kill {number:2} {when:<30} status {status:3}; next run {took:5.0f} s; "
            f"half-written {len(broken)}; left over {len(left)}; "
            f"results {'equal' if same else 'DIFFER'}",
            flush=True,
        )
        shutil.rmtree(out)
    print(f"{count - bad} of {count} kills: finished, whole, equal")
    return bad


def twice(asked: list[str], work: Path) -> int:
    """Two runs give the same csv; neither threads nor the processor flip a verdict.

    "old processor": torch's kernels without AVX and fused multiply-add, so that all
    sums are rounded otherwise. There, and with two threads, last digits may move.
    """
    runs = {
        "first": {}, "second": {}, "two threads": {"REPRODUCE_THREADS": "2"},
        "old processor": {"ATEN_CPU_CAPABILITY": "default"},
    }  # fmt: skip
    for name, env in runs.items():
        (work / name).mkdir()
        seconds = finish(work / name, [*asked, "--jobs", "1"], **env)
        print(f"{name}: {seconds:.0f} s", flush=True)
    first, *others = (
        compare.Results("the first run", csv_by_name(work / name)) for name in runs
    )
    bad = int(not first.tables)
    for name, other in zip([*runs][1:], others):
        found = compare.compare(first, other)
        bad += len(found.verdicts_that_differ) + len(found.numbers_outside)
        bad += found.claims != len(claims.claims())
        if name == "second":
            bad += len(first.tables) - len(found.equal) + len(found.new)
        print(f"{name}:{found.text()}", flush=True)
    return bad


def csv_by_name(out: Path) -> dict[str, bytes]:
    """The kept csv files of the one set that has run."""
    return {Path(place).name: data for place, data in results(out).items()}


def main() -> int:
    top = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    top.add_argument("what", choices=("kills", "twice"))
    top.add_argument("--count", type=int, default=10)
    top.add_argument("--moments", type=int, default=0, help="seed of the moments")
    args, asked = top.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if args.what == "twice":
            return bool(twice(asked, work))
        return bool(kills(asked, args.count, args.moments, work))


if __name__ == "__main__":
    sys.exit(main())
