"""The picture: layers down, weight across, how much of the second token is left.

draw_left    a panel a model and kind of pair, a square a layer and weight
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from experiments.middle_layers.cases import OWN
from experiments.middle_layers.reading import SEEN
from harness.safe_text import readable

if TYPE_CHECKING:
    import pandas as pd

STYLE = {"font.family": "DejaVu Sans", "font.size": 15, "axes.titlesize": 15}
STYLE |= {"axes.titlelocation": "left", "text.parse_math": False}


def draw_left(tables: dict[str, pd.DataFrame], title: str) -> Figure:
    """Draw `kept` of reading.left_table, by model: dark is all of it, white nothing.

    The last column is the model's own mixture. Hatched: there the lens would not show
    the second token in the sum of both states either, so that nothing can be said.
    """
    panels = [
        (f"{name}, {kind}", part)
        for name, table in tables.items()
        for kind, part in table.groupby("kind", sort=False)
        if kind != OWN
    ]
    own = {name: table[table.kind == OWN] for name, table in tables.items()}
    rows = max(table.layer.nunique() for table in tables.values())
    with rc_context(STYLE):
        size = 13.0, (0.55 * rows + 1.9) * -(-len(panels) // 2) + 0.8
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(-(-len(panels) // 2), 2, squeeze=False).ravel()
        for axes, (label, part) in zip(grid, panels):
            axes.set_title(readable(label, 50))
            shades = _squares(axes, part, own[label.rpartition(",")[0]])
        for axes in grid[len(panels) :]:
            axes.set_visible(False)
        bar = figure.colorbar(shades, ax=list(grid), shrink=0.8, pad=0.02)
        bar.set_label("left of the second token")
        bar.set_ticks([0, 0.5, 1], labels=["nothing", "half", "all"])
        figure.suptitle(title, x=0.01, ha="left", fontsize=17)
    figure.alt_text = _describe(panels)
    return figure


def _squares(axes, part: pd.DataFrame, own: pd.DataFrame):
    """One panel: the weights of a pair, then the model's own mixture."""
    both = [part.pivot(index="layer", columns="w", values=c) for c in ("kept", "shown")]
    beside = [own.set_index("layer")[[c]].set_axis([OWN], axis=1) for c in
              ("kept", "shown")]  # fmt: skip
    kept, shown = (a.join(b) for a, b in zip(both, beside))
    seen = shown.to_numpy() >= SEEN
    value = np.where(seen, kept.to_numpy(), np.nan)
    shades = axes.imshow(value, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (i, j), x in np.ndenumerate(value):
        if np.isnan(x):
            axes.add_patch(_hatched(i, j))
            continue
        dark = "white" if x > 0.6 else "black"
        axes.text(j, i, f"{x:.0%}", ha="center", va="center", color=dark, fontsize=12)
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
            f"{kept:.0%}" if shown >= SEEN else "not told"
            for kept, shown in zip(one.kept, one.shown)
        )
        said.append(f"{label}, weight .7, from the embeddings to the output: {values}.")
    return " ".join(said)
