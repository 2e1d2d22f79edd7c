"""The picture: layers down, weight across, how much of the second token is left.

draw_left    a panel a model and kind of pair, a square a layer and weight
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from experiments.middle_layers.cases import OWN, RELATED, UNRELATED
from experiments.middle_layers.reading import SEEN
from harness.safe_text import readable

if TYPE_CHECKING:
    import pandas as pd

STYLE = {"font.family": "DejaVu Sans", "font.size": 15, "axes.titlesize": 15}
STYLE |= {"axes.titlelocation": "left", "text.parse_math": False}


def draw_left(tables: dict[str, pd.DataFrame], title: str) -> Figure:
    """Draw `kept` of reading.left_table, by model: dark is all of it, white nothing.

    Beside related pairs the model's own mixture. Hatched: there the lens would not show
    the second token in the sum of both states either, or not even alone.
    """
    panels = [
        (f"{name}, {kinds[0]}", table[table.kind.isin(kinds)])
        for name, table in tables.items()
        for kinds in ((RELATED, OWN), (UNRELATED,))
    ]
    rows = max(table.layer.nunique() for table in tables.values())
    with rc_context(STYLE):
        size = 13.0, (0.55 * rows + 1.9) * -(-len(panels) // 2) + 0.8
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(-(-len(panels) // 2), 2, squeeze=False).ravel()
        for axes, (label, part) in zip(grid, panels):
            axes.set_title(readable(label, 50))
            shades = _squares(axes, part)
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        bar = figure.colorbar(shades, ax=list(grid), shrink=0.8, pad=0.02)
        bar.set_label("left of the second token")
        bar.set_ticks([0, 0.5, 1], labels=["nothing", "half", "all"])
        figure.suptitle(title, x=0.01, ha="left", fontsize=17)
    figure.alt_text = _describe(panels)
    return figure


def _squares(axes, part: pd.DataFrame):
    """One panel: a row a layer, a column a weight; the model's own mixture the last."""
    told = (part[["shown", "readable"]] >= SEEN).all(axis=1)
    kept = part.assign(kept=part.kept.where(told))
    kept = kept.pivot(index="layer", columns="w", values="kept")
    value = kept.to_numpy()
    shades = axes.imshow(value, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), x in np.ndenumerate(value):
        if np.isnan(x):
            axes.add_patch(_hatched(i, j))
            continue
        dark = "white" if x > 0.6 else "black"
        axes.text(j, i, f"{x:.0%}", ha="center", va="center", color=dark, fontsize=12)
    if OWN in kept.columns:
        axes.axvline(kept.shape[1] - 1.5, color="black", linewidth=1.2)
    axes.set_xticks(range(kept.shape[1]), [str(w).lstrip("0") for w in kept.columns])
    names = {kept.index[0]: "embeddings", kept.index[-1]: "output"}
    axes.set_yticks(range(len(kept)), [names.get(i, f"layer {i}") for i in kept.index])
    axes.set_xlabel("weight of the top token")
    return shades


def _hatched(row: int, column: int):
    from matplotlib.patches import Rectangle

    look = {"facecolor": "#EEEEEE", "edgecolor": "#BBBBBB", "hatch": "//"}
    return Rectangle((column - 0.5, row - 0.5), 1, 1, linewidth=0, **look)


def _describe(panels: list[tuple[str, pd.DataFrame]]) -> str:
    """Say in words what is left at weight .7, from the first layer to the last."""
    said = []
    for label, part in panels:
        one = part[part.w == "0.7"].sort_values("layer")
        values = ", ".join(
            f"{kept:.0%}" if min(told) >= SEEN else "not told"
            for kept, *told in zip(one.kept, one.shown, one.readable)
        )
        said.append(f"{label}, weight .7, from the embeddings to the output: {values}.")
    return " ".join(said)
