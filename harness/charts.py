"""Draw charts: a tidy frame and the names of its columns -> a matplotlib Figure.

    lines, scatter, bars, dots, heatmap, mixture_bars, table

Each figure's `alt_text` says in words what was drawn (harness/alt_text.py).
House style: the Okabe-Ito colours, which colour-blind readers can tell apart, with a
marker, line style or hatch beside each colour; type that is readable at half size.
"""

import functools
from collections.abc import Callable, Iterable, Mapping

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from harness import alt_text
from harness.safe_text import readable

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "os^Dvp*"
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)), (0, (3, 5)))
HATCHES = ("", "//", "..", "xx", "\\\\", "oo", "++")
# fmt: off
STYLE = {
    "font.family": "DejaVu Sans", "font.size": 15, "axes.titlesize": 16,
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "grid.alpha": 0.25, "axes.axisbelow": True,
    "lines.linewidth": 2.2, "lines.markersize": 8, "legend.frameon": False,
    "legend.fontsize": 13,
    "text.parse_math": False, "svg.hashsalt": "concept-tokens", "svg.fonttype": "path",
}
# fmt: on
GREY = "#555555"  # of reference lines and remarks
REFERENCE = {"color": GREY, "linewidth": 1.6}
CENTRED = {"ha": "center", "va": "center"}


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Run a drawing function in the house style."""

    @functools.wraps(draw)
    def draw_in_style(*args, **kwargs):
        with matplotlib.rc_context(STYLE):
            return draw(*args, **kwargs)

    return draw_in_style


def _figure(frame, panel, title, width=9.0, height=5.2, most=2):
    """A Figure with one axes for each value of the panel column (at most six).

    most: axes side by side.
    """
    values = [None] if panel is None else list(dict.fromkeys(frame[panel]))
    if not 1 <= len(values) <= 6:
        raise ValueError(f"panel={panel!r}: {len(values)} values; expected 1 to 6")
    columns = len(values[:most])
    rows = -(-len(values) // columns)
    figure = Figure(figsize=(width * (1 + columns) / 2, height * rows))
    figure.set_layout_engine("constrained")
    share = {"sharex": most > 2, "sharey": most > 2}
    grid = figure.subplots(rows, columns, squeeze=False, **share).ravel()
    for axes in grid[len(values) :]:
        axes.set_visible(False)
    if panel is None:
        grid[0].set_title(title)
        return figure, [(grid[0], frame)]
    figure.suptitle(title, x=0.01, ha="left")
    for axes, value in zip(grid, values):
        axes.set_title(readable(value, 60), fontsize=14)
    return figure, [(axes, frame[frame[panel] == v]) for axes, v in zip(grid, values)]


def _series(frame, by):
    """(index, label, rows) of each series; one without a label if `by` is None."""
    if by is None:
        return [(0, None, frame)]
    values = list(dict.fromkeys(frame[by]))
    if len(values) > len(COLOURS):
        raise ValueError(
            f"by={by!r}: {len(values)} series; expected {len(COLOURS)} at most"
        )
    return [(i, readable(v, 44), frame[frame[by] == v]) for i, v in enumerate(values)]


def _finish(axes: Axes, xlabel: str, ylabel: str, reference) -> None:
    """Draw reference lines, name the axes, and put the legend below the figure."""
    for (label, y), dash in zip((reference or {}).items(), ("--", ":", "-.", "-") * 3):
        axes.axhline(y, linestyle=dash, label=readable(label), **REFERENCE)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    figure, (handles, labels) = axes.figure, axes.get_legend_handles_labels()
    if labels and not figure.legends:  # once a figure, below it: never over the data
        room = figure.get_figwidth() / (0.11 * (max(map(len, labels)) + 7))  # inches
        columns = max(1, min(len(labels), int(room)))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)


@styled
def lines(
    frame: pd.DataFrame,
    x: str,
    y: str,
    by: str | None = None,
    low: str | None = None,
    high: str | None = None,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    reference: Mapping[str, float] | None = None,
    panel: str | None = None,
    logx: bool = False,
) -> Figure:
    """Draw lines of y over x, one a value of `by`, with bands from low to high."""
    figure, panels = _figure(frame, panel, title)
    for axes, part in panels:
        for i, label, rows in _series(part, by):
            look = {"color": COLOURS[i], "marker": MARKERS[i], "linestyle": DASHES[i]}
            axes.plot(rows[x], rows[y], label=label, **look)
            if low and high:
                band = {"color": COLOURS[i], "alpha": 0.18, "linewidth": 0}
                axes.fill_between(rows[x], rows[low], rows[high], **band)
        if logx:
            axes.set_xscale("log")
        _finish(axes, xlabel or x, ylabel or y, reference)
    figure.alt_text = alt_text.describe_lines(frame, x, y, (panel, by))
    return figure


@styled
def scatter(
    frame: pd.DataFrame,
    x: str,
    y: str,
    by: str | None = None,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    reference: Mapping[str, float] | None = None,
    panel: str | None = None,
    diagonal: str = "",
    names: str | None = None,
    hollow: Iterable[str] = (),
) -> Figure:
    """Draw points of y over x, one colour and marker a value of `by`.

    diagonal: the name of the line y = x, where it is to be drawn. names: the column
    with what to write above the points, which are then drawn large; its lines break at
    "\\n". hollow: the values of `by` whose points are outlines.
    """
    figure, panels = _figure(frame, panel, title, height=5.2 if names is None else 6.0)
    size = {"s": 34, "alpha": 0.65} if names is None else {"s": 110}
    for axes, part in panels:
        for i, label, rows in _series(part, by):
            look = size | {"edgecolors": COLOURS[i], "marker": MARKERS[i]}
            look |= {"linewidths": 0, "facecolors": COLOURS[i]}
            if label in hollow:
                look |= {"linewidths": 2, "facecolors": "white"}
            axes.scatter(rows[x], rows[y], label=label, zorder=3, **look)
        if names is not None:
            beside = {"xytext": (0, 10), "textcoords": "offset points", "fontsize": 12}
            for at, name in zip(zip(part[x], part[y]), part[names]):
                text = "\n".join(readable(line, 40) for line in name.split("\n"))
                axes.annotate(text, at, ha="center", va="bottom", **beside)
            axes.set_xlim(-0.1 * part[x].max(), 1.15 * part[x].max())
            axes.set_ylim(0, 1.25 * part[y].max())
        if diagonal:
            axes.axline((0, 0), slope=1, linestyle="--", label=diagonal, **REFERENCE)
        _finish(axes, xlabel or x, ylabel or y, reference)
    figure.alt_text = alt_text.describe_points(frame, x, y, (panel, by))
    return figure


def _ticks(values: Iterable) -> dict:
    """Tick labels, turned where they are too long to stand side by side."""
    labels = [readable(v) for v in values]
    long = max(map(len, labels)) * len(labels) > 50
    return {"labels": labels} | ({"rotation": 30, "ha": "right"} if long else {})


@styled
def bars(
    frame: pd.DataFrame,
    x: str,
    y: str,
    by: str | None = None,
    low: str | None = None,
    high: str | None = None,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    reference: Mapping[str, float] | None = None,
    panel: str | None = None,
) -> Figure:
    """Draw grouped bars of y for each x, one colour and hatch a value of `by`.

    Where one of a group has no row, "not run" stands in its place: it is not a zero.
    """
    figure, panels = _figure(frame, panel, title)
    remark = {"rotation": 90, "ha": "center", "va": "bottom", "fontsize": 11}
    for axes, part in panels:
        places = {value: i for i, value in enumerate(dict.fromkeys(part[x]))}
        series = _series(part, by)
        width = 0.8 / len(series)
        for i, label, rows in series:
            at = {v: places[v] - 0.4 + width * (i + 0.5) for v in places}
            here = [at[v] for v in rows[x]]
            look = {"color": COLOURS[i], "hatch": HATCHES[i], "edgecolor": "white"}
            axes.bar(here, rows[y], width * 0.94, linewidth=0.8, label=label, **look)
            if low and high:
                reach = [rows[y] - rows[low], rows[high] - rows[y]]
                look = {"fmt": "none", "ecolor": "#222222", "capsize": 3}
                axes.errorbar(here, rows[y], [r.clip(lower=0) for r in reach], **look)
            for value in (v for v in places if v not in set(rows[x])):
                axes.text(at[value], 0, " not run", color=GREY, **remark)
        axes.set_xticks(list(places.values()), **_ticks(places))
        axes.set_xlim(-0.6, len(places) - 0.4)
        axes.grid(False, axis="x")
        _finish(axes, xlabel, ylabel or y, reference)
    figure.alt_text = alt_text.describe_values(frame, y, (panel, by, x))
    return figure


@styled
def dots(
    frame: pd.DataFrame,
    x: str,
    y: str,
    by: str | None = None,
    low: str | None = None,
    high: str | None = None,
    title: str = "",
    xlabel: str = "",
    reference: Mapping[str, float] | None = None,
    panel: str | None = None,
) -> Figure:
    """Draw points of x in rows y, with intervals, and upright reference lines.

    Panels stand side by side and share the rows, of which every second has a ground.
    """
    places = {value: i for i, value in enumerate(dict.fromkeys(frame[y]))}
    size = {"height": 0.62 * len(places) + 2}
    if panel is not None:
        wide = 6.4 if frame[panel].nunique() > 1 else 9.0  # inches
        size = {"height": 0.56 * len(places) + 2.2, "width": wide, "most": 6}
    figure, panels = _figure(frame, panel, title, **size)
    order = {label: i for i, label, _ in _series(frame, by)}
    apart = min(0.34, 0.8 / len(order))  # of a row's points
    above = {"xycoords": ("data", "axes fraction"), "ha": "center", "va": "bottom"}
    for axes, part in panels:
        for _, label, rows in _series(part, by):
            i = order[label]
            at = [places[v] + apart * (i - (len(order) - 1) / 2) for v in rows[y]]
            look = {"color": COLOURS[i], "markersize": 9, "clip_on": False}
            axes.plot(rows[x], at, MARKERS[i], label=label, **look)
            if low and high:
                axes.hlines(at, rows[low], rows[high], color=COLOURS[i], linewidth=2.4)
        for (label, value), dash in zip((reference or {}).items(), DASHES):
            axes.axvline(value, linestyle=dash, **REFERENCE)
            axes.annotate(readable(label), (value, 1), fontsize=12, **above)
        for i in range(1, len(places), 2) if panel is not None else ():
            axes.axhspan(i - 0.5, i + 0.5, color="#EEEEEE", zorder=0, linewidth=0)
        axes.set_yticks(list(places.values()), [readable(v, 40) for v in places])
        axes.set_ylim(len(places) - 0.4, -0.6)
        if len(panels) > 2:  # side by side, where many labels would touch
            axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.grid(False, axis="y")
        _finish(axes, xlabel or x, "", None)
    if panel is None:
        panels[0][0].set_title(title, pad=24)
    figure.alt_text = alt_text.describe_values(frame, x, (panel, by, y))
    return figure


@styled
def heatmap(
    frame: pd.DataFrame,
    x: str,
    y: str,
    share: str,
    panel: str,
    title: str = "",
    xlabel: str = "",
    ylabel: str = "",
    scale: str = "",
    apart: str = "",
) -> Figure:
    """Draw shares as squares, x across and y down: dark is 1, white 0, hatched NaN.

    scale: what is shared. apart: a value of x that a line sets off from those before.
    """
    tall = frame.groupby(panel)[y].nunique().max()
    figure, panels = _figure(frame, panel, title, width=8.6, height=0.55 * tall + 1.9)
    for axes, part in panels:
        across, down = (list(dict.fromkeys(part[key])) for key in (x, y))
        table = part.pivot(index=y, columns=x, values=share).loc[down, across]
        axes.set_facecolor("#EEEEEE")
        axes.add_patch(_hatched(len(across), len(down)))
        look = {"cmap": "Blues", "vmin": 0, "vmax": 1, "aspect": "auto", "zorder": 2}
        shades = axes.imshow(table, **look)
        for (i, j), value in np.ndenumerate(table.to_numpy()):
            if not np.isnan(value):
                look = {"color": "white" if value > 0.6 else "black", "fontsize": 12}
                axes.text(j, i, f"{value:.0%}", **look, **CENTRED)
        if apart in across:
            axes.axvline(across.index(apart) - 0.5, color="black", linewidth=1.2)
        axes.set_xticks(range(len(across)), [readable(v) for v in across])
        axes.set_yticks(range(len(down)), [readable(v) for v in down])
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.grid(False)
        _finish(axes, xlabel or x, ylabel, None)
    bar = figure.colorbar(shades, ax=[a for a, _ in panels], shrink=0.8, pad=0.02)
    bar.set_label(scale or share)
    bar.set_ticks([0, 0.5, 1], labels=["nothing", "half", "all"])
    figure.alt_text = alt_text.describe_values(frame, share, (panel, y, x))
    return figure


def _hatched(columns: int, rows: int) -> Rectangle:
    """The ground of a heatmap, seen where a square has no value."""
    look = {"facecolor": "none", "edgecolor": "#BBBBBB", "hatch": "//", "linewidth": 0}
    return Rectangle((-0.5, -0.5), columns, rows, **look)


@styled
def mixture_bars(
    frame: pd.DataFrame,
    step: str = "step",
    token: str = "token",
    prob: str = "prob",
    panel: str | None = None,
    title: str = "",
) -> Figure:
    """Draw each step's mixture as a bar: its tokens, widest first, the rest in grey."""
    figure, panels = _figure(frame, panel, title, height=4.2)
    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5, "alpha": 0.85}
    look = CENTRED | {"fontsize": 13, "color": "black", "bbox": box}
    letters = 44 if panel is None else 30  # that a whole bar has room for
    for axes, part in panels:
        steps = list(dict.fromkeys(part[step]))
        for i, value in enumerate(steps):
            rows = part[part[step] == value].sort_values(prob, ascending=False)
            left = 0.0
            for rank, (name, p) in enumerate(zip(rows[token], rows[prob])):
                fill = {"color": COLOURS[rank % 6], "hatch": HATCHES[rank % 7]}
                axes.barh(i, p, 0.78, left=left, edgecolor="white", **fill)
                room = int(p * letters)
                if room >= min(5, len(readable(name))):
                    axes.text(left + p / 2, i, readable(name, room), **look)
                left += p
            axes.barh(i, max(0.0, 1 - left), 0.78, left=left, color="#DDDDDD")
        axes.set_yticks(range(len(steps)), [str(s) for s in steps])
        axes.set(xlim=(0, 1), xlabel="weight", ylabel=step)
        axes.invert_yaxis()
        axes.grid(False, axis="y")
    figure.alt_text = alt_text.describe_mixtures(frame, step, token, prob, panel)
    return figure


@styled
def table(
    frame: pd.DataFrame, title: str = "", most: int = 44, split: str | None = None
) -> Figure:
    """Draw a frame of text and rounded numbers as a picture.

    most: characters of a line in a cell. split: where the text of a cell breaks.
    """
    rows = frame.itertuples(index=False)
    text = [[_cell(v, most, split) for v in row] for row in rows]
    heads = [str(c) for c in frame.columns]
    columns = ["\n".join(column).split("\n") for column in zip(heads, *text)]
    widths = [max(map(len, column)) + 2 for column in columns]
    tall = max((cell.count("\n") for row in text for cell in row), default=0)
    room = len(text) * (1 + 0.6 * tall) + 2.4  # in lines
    figure = Figure(figsize=(max(6.0, 0.135 * sum(widths)), 0.46 * room))
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98 - 0.6 / room))
    axes.axis("off")
    shares = [width / sum(widths) for width in widths]
    layout = {"cellLoc": "left", "colLoc": "left", "bbox": (0, 0, 1, 1)}
    drawn = axes.table(text, colLabels=heads, colWidths=shares, **layout)
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(13)
    for (row, _), cell in drawn.get_celld().items():
        cell.set(edgecolor="#CCCCCC", facecolor="#EAF1F6" if row == 0 else "white")
    figure.text(0.01, 0.99, title, va="top", fontsize=16)
    one_line = [[cell.replace("\n", ", ") for cell in row] for row in text]
    figure.alt_text = alt_text.describe_table(one_line, heads)
    return figure


def _cell(value: object, most: int, split: str | None = None) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    pieces = str(value).split(split) if split else [value]
    return "\n".join(readable(piece, most) for piece in pieces)
