"""From measured rows to what is kept: csv files, the targets, one picture.

    summarise   rows of a shape -> a line a contestant, with ratios to generate
    targets     each target of the design with its measured ratio
    picture     speed, growth and the two ways to mix, side by side
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.measure import crossing, exponent
from helpers.charts import COLOURS, MARKERS, STYLE
from helpers.stats import bootstrap


def summarise(frame: pd.DataFrame, shape: str, steps: int) -> pd.DataFrame:
    """Medians over rounds, and speed against generate in the same round.

    times generate: tokens a second over generate's, the median of the rounds' ratios.
    low, high: its 95 % bootstrap interval over rounds.
    """
    wide = frame.pivot(index="round", columns="contestant", values="seconds")
    rows = []
    for name, part in frame.groupby("contestant", sort=False):
        batch = int(part.batch.iloc[0])
        ratios = (wide["generate"] / wide[name] * batch).to_numpy()
        estimate = bootstrap(ratios, statistic=lambda v: np.median(v, axis=-1))
        median = part.seconds.median()
        rows.append(
            (shape, name, batch, steps, median / steps * 1e3, batch * steps / median)
            + (float(np.median(ratios)), estimate.low, estimate.high, len(ratios))
        )
    columns = ["shape", "contestant", "batch", "steps", "ms a step", "tokens a second"]
    return pd.DataFrame(
        rows, columns=[*columns, "times generate", "low", "high", "rounds"]
    )


def targets(speed: pd.DataFrame, grown: pd.DataFrame) -> pd.DataFrame:
    """shape, target, wanted, measured, met: every target whose numbers are at hand."""
    rates = speed.set_index(["shape", "contestant"])["tokens a second"].to_dict()
    rows = []

    def ratio(shape, what, over, wanted):
        if (shape, what) in rates and (shape, over) in rates:
            measured = rates[shape, what] / rates[shape, over]
            rows.append((shape, f"{what} / {over}", f">= {wanted}", measured,
                         measured >= wanted))  # fmt: skip

    for shape, large in (("mini_qwen2", 15), ("gpt2_124m", 6)):
        ratio(shape, "ours", "generate", 1.0)
        ratio(shape, "ours x64", "ours", large)
    ratio("mini_qwen2", "ours compiled", "generate", 2.5)
    ratio("gpt2_124m", "ours", "appendix", 3.5)
    ratio("qwen_1_5b", "ours compiled", "generate", 3.0)
    for shape, part in grown[grown.contestant == "ours"].groupby("shape", sort=False):
        if len(part) > 1:
            found = exponent(part.steps, part.seconds)
            rows.append((shape, "ours: exponent of time over steps", "<= 1.1", found,
                         found <= 1.1))  # fmt: skip
    if "bandwidth used" in speed:
        for row in speed[speed.contestant == "ours compiled"].itertuples():
            used = speed.loc[row.Index, "bandwidth used"]
            if row.shape == "qwen_1_5b" and used == used:
                rows.append((row.shape, "ours compiled: share of the bandwidth limit",
                             ">= 0.6", used, used >= 0.6))  # fmt: skip
    return pd.DataFrame(rows, columns=["shape", "target", "wanted", "measured", "met"])


def readable(speed: pd.DataFrame) -> pd.DataFrame:
    """The README's table: what a reader compares, rounded."""
    interval = [f"{r.low:.2f} to {r.high:.2f}" for r in speed.itertuples()]
    table = speed[["shape", "contestant", "batch", "steps"]].copy()
    table["ms a step"] = speed["ms a step"].map("{:.2f}".format)
    table["tokens a second"] = speed["tokens a second"].map("{:.0f}".format)
    table["times generate"] = speed["times generate"].map("{:.2f}".format)
    table["95 % interval"] = interval
    table["peak memory, MB"] = speed["peak mb"].map("{:.0f}".format)
    return table


def picture(speed: pd.DataFrame, grown: pd.DataFrame, mixed: pd.DataFrame):
    """Three panels: times generate, seconds over steps, microseconds over k."""
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(19, 6), layout="constrained")
        _ratios(axes[0], speed)
        for i, ((shape, name), part) in enumerate(
            grown.groupby(["shape", "contestant"], sort=False)
        ):
            axes[1].plot(part.steps, part.seconds, color=COLOURS[i % 7],
                         marker=MARKERS[i % 7], label=f"{name}, {shape}")  # fmt: skip
        axes[1].set(xscale="log", yscale="log", xlabel="steps", ylabel="seconds",
                    title="Growth with length, batch 1")  # fmt: skip
        one = mixed[mixed.batch == mixed.batch.min()]
        for i, ((size, way), part) in enumerate(
            one.groupby(["vocabulary", "way"], sort=False)
        ):
            style = "-" if way == "gather" else "--"
            axes[2].plot(part.k, part.microseconds, style, color=COLOURS[i // 2 % 7],
                         marker=MARKERS[i % 7], label=f"{way}, V = {size}")  # fmt: skip
        axes[2].set(xscale="log", yscale="log", xlabel="k, tokens kept",
                    ylabel="microseconds",
                    title="The mixture alone, batch 1")  # fmt: skip
        for axis in axes[1:]:
            axis.legend()
            _plain(axis.xaxis, axis.yaxis)
        _plain(axes[0].xaxis)
    return figure


def _plain(*scales):
    """Numbers as numbers on a logarithmic axis: 0.1, 1, 10."""
    for scale in scales:
        scale.set_major_locator(LogLocator(subs=(1, 2, 5)))
        scale.set_major_formatter("{x:g}")
        scale.set_minor_formatter(NullFormatter())


def _ratios(axis, speed):
    names = list(dict.fromkeys(speed.contestant))
    for i, (shape, part) in enumerate(speed.groupby("shape", sort=False)):
        y = [names.index(n) + 0.15 * i for n in part.contestant]
        middle = part["times generate"]
        spread = [middle - part.low, part.high - middle]
        axis.errorbar(middle, y, xerr=np.clip(spread, 0, None), fmt=MARKERS[i],
                      color=COLOURS[i], capsize=4, label=shape)  # fmt: skip
    axis.axvline(1, color="0.5", linestyle=":")
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set(xscale="log", xlabel="tokens a second, times generate's",
             title="Speed, 95 % intervals")  # fmt: skip
    axis.legend()


def told(speed, grown, mixed) -> str:
    """The picture in one sentence, for a reader who cannot see it."""
    ours = speed[speed.contestant == "ours"]
    ratios = ", ".join(
        f"{r['times generate']:.2f} times generate on {r['shape']}"
        for _, r in ours.iterrows()
    )
    bends = ", ".join(
        f"{exponent(p.steps, p.seconds):.2f}"
        for _, p in grown[grown.contestant == "ours"].groupby("shape", sort=False)
        if len(p) > 1
    )
    one = mixed[mixed.batch == mixed.batch.min()]
    cross = ", ".join(
        f"k = {crossing(p):g} of V = {v}" for v, p in one.groupby("vocabulary")
    )
    return (
        f"The mixture loop at batch 1 runs at {ratios}; its time grows with steps to "
        f"the power {bends}; a dense product is as fast as gathering from {cross}."
    )
