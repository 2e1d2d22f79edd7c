"""Turn measured rows into csv files, the targets and one picture.

summarise   rows of a shape -> a line a contestant, with ratios to generate
targets     each target of the design with its measured ratio
picture     speed, growth and the two ways to mix, side by side; alt_text says it
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter

from benchmarks.measure import crossing, exponent
from experiments.stats import bootstrap
from harness.charts import COLOURS, MARKERS, STYLE

LINES = ("-", "--", ":")


def summarise(frame: pd.DataFrame, shape: str, steps: int) -> pd.DataFrame:
    """Take medians over rounds, and speed against generate in the same round.

    times generate: tokens a second over generate's, the median of the rounds' ratios.
    low, high: its 95 % bootstrap interval over rounds.
    """
    wide = frame.pivot(index="round", columns="contestant", values="seconds")
    rows = []
    for name, part in frame.groupby("contestant", sort=False):
        batch = int(part.batch.iloc[0])
        ratios = (wide["generate"] / wide[name] * batch).to_numpy()
        estimate = bootstrap(ratios, statistic=_median)
        median = part.seconds.median()
        rows.append(
            (shape, name, batch, steps, median / steps * 1e3, batch * steps / median)
            + (float(np.median(ratios)), estimate.low, estimate.high, len(ratios))
        )
    columns = ["shape", "contestant", "batch", "steps", "ms a step", "tokens a second"]
    return pd.DataFrame(
        rows, columns=[*columns, "times generate", "low", "high", "rounds"]
    )


def targets(
    speed: pd.DataFrame, rounds: pd.DataFrame, grown: pd.DataFrame
) -> pd.DataFrame:
    """Compare each target with its numbers: wanted, measured, low, high, met.

    A ratio is that of tokens a second in the same round, the median over rounds with
    its 95 % bootstrap interval; met goes by the median.
    """
    taken = rounds.set_index(["shape", "contestant", "round"])
    rates = (taken.batch / taken.seconds).unstack("round")
    rows = []

    def add(shape, target, sign, wanted, measured, low, high):
        met = measured >= wanted if sign == ">=" else measured <= wanted
        rows.append((shape, target, f"{sign} {wanted}", measured, low, high, met))

    def ratio(shape, what, over, wanted):
        if {(shape, what), (shape, over)} <= set(rates.index):
            ratios = (rates.loc[(shape, what)] / rates.loc[(shape, over)]).dropna()
            e = bootstrap(ratios.to_numpy(), statistic=_median)
            add(shape, f"{what} / {over}", ">=", wanted, e.value, e.low, e.high)

    for shape, large in (("mini_qwen2", 15), ("gpt2_124m", 6)):
        ratio(shape, "ours", "generate", 1.0)
        ratio(shape, "ours x64", "ours", large)
    ratio("mini_qwen2", "ours compiled", "generate", 2.5)
    ratio("gpt2_124m", "ours", "appendix", 3.5)
    ratio("gpt2_124m", "ours compiled", "appendix", 3.5)
    ratio("qwen_1_5b", "ours compiled", "generate", 3.0)
    for shape, part in grown[grown.contestant == "ours"].groupby("shape", sort=False):
        if len(part) > 1:
            found = exponent(part.steps, part.seconds)
            add(shape, "ours: exponent of time over steps", "<=", 1.1, *found)
    big = speed[(speed["shape"] == "qwen_1_5b") & (speed.contestant == "ours compiled")]
    for used in big["bandwidth used"].dropna():
        what = "ours compiled: share of the bandwidth limit"
        add("qwen_1_5b", what, ">=", 0.6, used, np.nan, np.nan)
    names = ["shape", "target", "wanted", "measured", "low", "high", "met"]
    return pd.DataFrame(rows, columns=names)


def _median(values):
    return np.median(values, axis=-1)


def picture(speed: pd.DataFrame, grown: pd.DataFrame, mixed: pd.DataFrame):
    """Draw three panels: times generate, seconds over steps, microseconds over k."""
    shapes = list(dict.fromkeys(grown["shape"]))
    names = list(dict.fromkeys(grown.contestant))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, 3, figsize=(19, 7), layout="constrained")
        _ratios(axes[0], speed)
        for (shape, name), part in grown.groupby(["shape", "contestant"], sort=False):
            i, line = names.index(name), LINES[shapes.index(shape) % len(LINES)]
            axes[1].plot(
                part.steps,
                part.seconds,
                line,
                color=COLOURS[i],
                marker=MARKERS[i],
                label=f"{name}, {shape}",
            )
        axes[1].set(
            xscale="log",
            yscale="log",
            xlabel="steps",
            ylabel="seconds",
            title="Growth with length, batch 1",
        )
        axes[1].set_xticks(sorted(set(grown.steps)), sorted(set(grown.steps)))
        axes[1].minorticks_off()
        one = mixed[mixed.batch == mixed.batch.min()]
        for i, ((size, way), part) in enumerate(
            one.groupby(["vocabulary", "way"], sort=False)
        ):
            axes[2].plot(
                part.k,
                part.microseconds,
                LINES[way == "dense"],
                color=COLOURS[i // 2 % 7],
                marker=MARKERS[i % 7],
                label=f"{way}, V = {size}",
            )
        axes[2].set(
            xscale="log",
            yscale="log",
            xlabel="k, tokens kept",
            ylabel="microseconds",
            title="The mixture alone, batch 1",
        )
        _plain(axes[2].xaxis, subs=(1,))
        _plain(axes[0].xaxis, axes[1].yaxis, axes[2].yaxis)
        for axis in axes:
            axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    return figure


def _plain(*scales, subs=(1, 2, 5)):
    """Label a logarithmic axis with plain numbers: 0.1, 1, 10."""
    for scale in scales:
        scale.set_major_locator(LogLocator(subs=subs))
        scale.set_major_formatter("{x:g}")
        scale.set_minor_formatter(NullFormatter())


def _ratios(axis, speed):
    names = list(dict.fromkeys(speed.contestant))
    for i, (shape, part) in enumerate(speed.groupby("shape", sort=False)):
        y = [names.index(n) + 0.15 * i for n in part.contestant]
        middle = part["times generate"]
        spread = [middle - part.low, part.high - middle]
        axis.errorbar(
            middle,
            y,
            xerr=np.clip(spread, 0, None),
            fmt=MARKERS[i],
            color=COLOURS[i],
            capsize=4,
            label=shape,
        )
    axis.axvline(1, color="0.5", linestyle=":")
    axis.set_yticks(range(len(names)), names)
    axis.invert_yaxis()
    axis.set(
        xscale="log",
        xlabel="tokens a second, times generate's",
        title="Speed, 95 % intervals",
    )


def alt_text(speed: pd.DataFrame, grown: pd.DataFrame, mixed: pd.DataFrame) -> str:
    """Describe the picture in one sentence, for a reader who cannot see it."""
    ours = speed[speed.contestant == "ours"]
    ratios = ", ".join(
        f"{r['times generate']:.2f} times generate on {r['shape']}"
        for _, r in ours.iterrows()
    )
    bends = ", ".join(
        f"{exponent(p.steps, p.seconds)[0]:.2f}"
        for _, p in grown[grown.contestant == "ours"].groupby("shape", sort=False)
        if len(p) > 1
    )
    wins = "; ".join(
        f"at batch {batch} "
        + ", ".join(
            f"from k = {k:.0f} of {v}" if np.isfinite(k) else f"at no k to {top} of {v}"
            for v, k, top in (
                (v, crossing(p), p.k.max()) for v, p in part.groupby("vocabulary")
            )
        )
        for batch, part in mixed.groupby("batch")
    )
    return (
        f"The mixture loop at batch 1 runs at {ratios}; its time grows with steps to "
        f"the power {bends}. A dense product with the whole table is as fast as "
        f"gathering rows, of the k measured: {wins} tokens."
    )
