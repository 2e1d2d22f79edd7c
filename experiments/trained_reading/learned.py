"""What was trained and is committed: models/learned/, and how to load it.

thinker       a model of `thinking`, by kind and training seed
update        a reader's or a control's update, by kind, fold and training seed
widths        answers of thinkers of several widths
curve         what readers read after a few steps of training, and after more
costs         seconds that each training took
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pandas as pd
from safetensors.torch import load_file

from experiments.trained_reading.thinking import WIDTH, new_model
from harness.files import ROOT

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GPT2LMHeadModel

FOLDER = ROOT / "models" / "learned"
WEIGHTS = {"thinkers": "thinkers.safetensors", "readers": "readers.safetensors"}
SEEDS = (0, 1, 2)


@cache
def _weights(which: str) -> dict[str, Tensor]:
    path = FOLDER / WEIGHTS[which]
    if not path.exists():
        raise FileNotFoundError(f"{path.name}: not there; run make learn")
    return load_file(path)


def _of(which: str, name: str) -> dict[str, Tensor]:
    """The tensors of one model, their names without its own."""
    start = f"{name}/"
    found = {
        key.removeprefix(start): tensor
        for key, tensor in _weights(which).items()
        if key.startswith(start)
    }
    if not found:
        raise ValueError(f"{name}: no such model in {WEIGHTS[which]}")
    return found


def thinker(kind: str, seed: int) -> GPT2LMHeadModel:
    """Load a thinker of the largest width; ValueError where there is none."""
    return restore(_of("thinkers", f"{kind}-{WIDTH}-{seed}"), WIDTH)


def restore(tensors: dict[str, Tensor], width: int) -> GPT2LMHeadModel:
    """Make a thinker of committed tensors, which are in half precision."""
    model = new_model(width)
    model.transformer.load_state_dict({k: v.float() for k, v in tensors.items()})
    return model.eval()


def update(kind: str, fold: str, seed: int) -> dict[str, Tensor]:
    """Load the update of a reader or a control; ValueError where there is none."""
    return _of("readers", f"{kind}-{fold}-{seed}")


def widths() -> pd.DataFrame:
    """Read answers by width: kind, width, seed, way, value, low, high, n."""
    return pd.read_csv(FOLDER / "widths.csv")


def curve() -> pd.DataFrame:
    """Read kind, seed, step, fold, template, and the sums won and room of its items."""
    return pd.read_csv(FOLDER / "curve.csv")


def costs() -> pd.DataFrame:
    """Read job, steps and CPU seconds."""
    return pd.read_csv(FOLDER / "costs.csv")
