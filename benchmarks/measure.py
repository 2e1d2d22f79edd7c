"""Measure time, memory and bandwidth.

interleaved   seconds of each contestant, in turns, round by round
growth        seconds over the number of steps, and the exponent
profile       which operators the time of one call goes to
products      one row times every weight matrix: the least a step can do
mixing        gather-and-weight against a dense product, over k
peak_memory   of one contestant, in a process of its own
bandwidth     bytes a second that a copy moves on this device
machine       what all this ran on, and how busy it was
"""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys

import numpy as np
import pandas as pd
import torch
import transformers
from scipy import stats
from torch.utils.benchmark.utils.timer import timer

from benchmarks.contestants import SHAPES, contestants
from harness.files import ROOT
from helpers.compiled import OneRow
from helpers.mixture import _mix


def seconds(call) -> float:
    """Time one call in seconds, the device's queue included."""
    begun = timer()  # Timer.timeit would run the call twice more, unmeasured
    call()
    return timer() - begun


def interleaved(
    who: dict, rounds: int, warm: bool = True, min_seconds: float = 0
) -> pd.DataFrame:
    """Time contestants in turns -> rows: contestant, batch, round, seconds.

    warm: every contestant runs once first, unmeasured: compiling happens there.
    min_seconds: more rounds than asked for, until they have taken this many seconds.
    Each round begins with another contestant, so that none always follows the same one.
    """
    for call, _ in who.values() if warm else ():
        call()
    rows, turn, begun, order = [], 0, timer(), list(who)
    while turn < rounds or timer() - begun < min_seconds:
        for name in order:
            call, batch = who[name]
            rows.append((name, batch, turn, seconds(call)))
        turn += 1
        order = order[1:] + order[:1]
    return pd.DataFrame(rows, columns=["contestant", "batch", "round", "seconds"])


def growth(lm, lengths, rounds: int, longest: dict) -> pd.DataFrame:
    """Time each contestant at batch 1 over steps, up to its longest run."""
    rows = []
    for steps in lengths:
        who = contestants(lm, steps, batches=(1,), compiled=False)
        who = {n: w for n, w in who.items() if steps <= longest.get(n, steps)}
        frame = interleaved(who, rounds, warm=steps == lengths[0])
        for name, part in frame.groupby("contestant", sort=False):
            rows.append((name, steps, part.seconds.median()))
    return pd.DataFrame(rows, columns=["contestant", "steps", "seconds"])


def exponent(steps, seconds) -> tuple[float, float, float]:
    """Fit b of seconds = a steps^b, on logarithms -> b, its 95 % interval.

    The interval is Student's, from the points' scatter about the line.
    """
    fit = stats.linregress(np.log(steps), np.log(seconds))
    half = stats.t.ppf(0.975, len(steps) - 2) * fit.stderr if len(steps) > 2 else np.nan
    return float(fit.slope), float(fit.slope - half), float(fit.slope + half)


def profile(who: dict, names=("generate", "appendix", "ours"), top=6) -> pd.DataFrame:
    """List the operators that one call of each spends most of its own time in.

    Rows: contestant, operator, calls, ms (processor or GPU time of its own), share.
    """
    rows = []
    for name in names:
        who[name][0]()
        with torch.profiler.profile() as seen:
            who[name][0]()
        found = seen.key_averages()
        kind = "device" if any(e.self_device_time_total for e in found) else "cpu"
        clock = f"self_{kind}_time_total"
        times = [(e.key, e.count, getattr(e, clock) / 1e3) for e in found]
        total = sum(ms for *_, ms in times)
        times.sort(key=lambda row: -row[2])
        rows += [(name, *row, row[2] / total) for row in times[:top]]
    names = ["contestant", "operator", "calls", "ms", "share"]
    return pd.DataFrame(rows, columns=names)


def products(lm, repeats=10) -> pd.DataFrame:
    """Time one row times each weight matrix on the CPU, as often as a step does.

    Rows: way ("library", what eager steps call; "sums", what compiled steps do),
    threads, ms, GB of weights read a second.
    """
    from transformers.pytorch_utils import Conv1D

    layers = [m for m in lm.model.modules() if isinstance(m, (torch.nn.Linear, Conv1D))]
    wide = {torch.nn.Linear: 1, Conv1D: 0}
    rows_in = [torch.randn(1, m.weight.shape[wide[type(m)]]) for m in layers]

    def library():
        return [layer(x) for layer, x in zip(layers, rows_in)]

    @torch.compile(dynamic=False)
    def sums():
        with OneRow():
            return library()

    read, rows = sum(layer.weight.nbytes for layer in layers), []
    every = torch.get_num_threads()
    with torch.inference_mode():
        sums()
        for way, threads in (("library", 1), ("library", every), ("sums", every)):
            torch.set_num_threads(threads)
            call = {"library": library, "sums": sums}[way]
            call()
            took = np.median([seconds(call) for _ in range(repeats)])
            rows.append((way, threads, took * 1e3, read / took / 1e9))
    return pd.DataFrame(rows, columns=["way", "threads", "ms", "gb a second"])


def mixing(sizes, ks, batches=(1, 64), device="cpu", repeats=5) -> pd.DataFrame:
    """Time both ways to mix, for tables (V,D), k kept tokens and batches.

    gather: the k rows, weighted. dense: the weights scattered over V, times the table.
    """
    rows = []
    for vocabulary, width in sizes:
        embed = torch.randn(vocabulary, width, device=device)
        for batch in batches:
            for k in sorted({min(k, vocabulary) for k in ks}):
                if batch * k * width > 2**28:
                    continue  # a gigabyte of rows to gather
                logits = torch.randn(batch, vocabulary, device=device)
                probs, indices = logits.softmax(-1).topk(k)
                ways = {
                    "gather": lambda p=probs, i=indices, e=embed: _mix(p, i, e),
                    "dense": lambda p=probs, i=indices, e=embed: dense(p, i, e),
                }
                for way, call in ways.items():
                    call()
                    best = sorted(seconds(call) for _ in range(repeats))[repeats // 2]
                    rows.append((vocabulary, width, batch, k, way, best * 1e6))
    return pd.DataFrame(
        rows, columns=["vocabulary", "width", "batch", "k", "way", "microseconds"]
    )


def dense(probs, indices, embed):
    """Compute the mixture as a product with the whole table."""
    weights = embed.new_zeros(*probs.shape[:-1], len(embed))
    return weights.scatter_(-1, indices, probs) @ embed


def crossing(frame: pd.DataFrame) -> float:
    """Find the smallest k at which dense is at least as fast; inf if none."""
    wide = frame.pivot(index="k", columns="way", values="microseconds")
    faster = wide.index[wide.dense <= wide.gather]
    return float(faster.min()) if len(faster) else float("inf")


def peak_memory(shape: str, name: str, steps: int, device: str) -> float:
    """Measure one contestant's peak memory in MB, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks", "--alone", shape, name]
    command += ["--steps", str(steps), "--device", device]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def peak_of_this_process(shape: str, name: str, steps: int, device: str) -> float:
    """Run one contestant here -> peak memory in MB, of the process or the GPU."""
    contestants(SHAPES[shape](device), steps)[name][0]()
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 1e6
    if os.path.exists("/proc/self/status"):  # ru_maxrss would count the parent's too
        with open("/proc/self/status") as file:
            peak = next(line for line in file if line.startswith("VmHWM"))
        return int(peak.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def bandwidth(device: str) -> float:
    """Measure bytes a second, read plus written, of a large copy: best of ten."""
    size = 2**26 if device == "cpu" else 2**28  # numbers: far more than a cache holds
    a = torch.empty(size, dtype=torch.float32, device=device)
    b = torch.empty_like(a)
    b.copy_(a)
    return 2 * a.nbytes / min(seconds(lambda: b.copy_(a)) for _ in range(10))


def bytes_a_step(lm, length: float) -> float:
    """Count the bytes of weights and cache that a step at batch 1 has to read."""
    config = lm.model.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    width = config.hidden_size // config.num_attention_heads
    cache = 2 * config.num_hidden_layers * heads * width * length
    weights = sum(p.numel() for p in lm.model.parameters())
    return (weights + cache) * lm.embed.element_size()


def machine(device: str) -> dict:
    """Describe the processor, the cores used, the versions, and the load."""
    name = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as file:
            lines = [line for line in file if line.startswith("model name")]
        name = lines[0].split(":")[1].strip() if lines else name
    return {
        "processor": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "load average": round(os.getloadavg()[0], 2),
    }
