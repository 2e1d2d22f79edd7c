"""What was trained and is committed: models/learned/, and how to load it.

    thinkers    the models of `thinking` of one training seed, by kind
    searchers   those of `searching` that think, by arm
    update      a reader's update, by fold: those of training seed 0
    readings    what every reader and control reads, prompt by prompt
    nll         what ordinary text costs them, document by document
    curve       what they read after a few steps of training, and after more
    widths      answers of thinkers of several widths
    searches    which answers of searchers are right, of all arms
    costs       CPU seconds that each training took

`python -m experiments.trained_reading`, or `make learn`, trains all of it again.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pandas as pd
from safetensors.torch import load_file

from experiments.trained_reading import searching, thinking
from harness.files import ROOT

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import GPT2LMHeadModel

FOLDER = ROOT / "models" / "learned"
WEIGHTS = {x: f"{x}.safetensors" for x in ("thinkers", "readers", "searchers")}
GRAPH = "graph_"  # how names of searchers' jobs begin
THINKING = ("coconut", "pause")  # arms of searchers whose weights are committed
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


def thinkers(seed: int) -> dict[str, GPT2LMHeadModel]:
    """Load the widest models of one training seed, by kind."""
    return {
        kind: restore(
            _of("thinkers", f"{kind}-{thinking.WIDTH}-{seed}"), thinking.new_model()
        )
        for kind in thinking.KINDS
    }


def searchers(seed: int) -> dict[str, GPT2LMHeadModel]:
    """Load the models of one training seed that think about graphs, by arm."""
    return {
        arm: restore(_of("searchers", f"{GRAPH}{arm}-{seed}"), searching.new_model())
        for arm in THINKING
    }


def restore(tensors: dict[str, Tensor], model: GPT2LMHeadModel) -> GPT2LMHeadModel:
    """Fill a new model with committed tensors, which are in half precision."""
    model.transformer.load_state_dict({k: v.float() for k, v in tensors.items()})
    return model.eval()


def update(fold: str) -> dict[str, Tensor]:
    """Load the update of a reader that never trained on a fold's sentences."""
    return _of("readers", f"reader-{fold}-0")


@cache
def _table(name: str) -> pd.DataFrame:
    path = FOLDER / f"{name}.csv"
    if not path.exists():
        raise FileNotFoundError(f"{path.name}: not there; run make learn")
    return pd.read_csv(path, dtype={"right": str})


def readings() -> pd.DataFrame:
    """Read kind, seed, fold, and the columns of reading.reading_rows."""
    return _table("readings")


def nll() -> pd.DataFrame:
    """Read kind, seed, fold, document, nll (nats a token)."""
    return _table("nll")


def curve() -> pd.DataFrame:
    """Read kind, seed, fold, step, template, and its prompts' sums won, room and n."""
    return _table("curve")


def widths() -> pd.DataFrame:
    """Read kind, width, seed, way, value, low, high, n."""
    return _table("widths")


def searches() -> pd.DataFrame:
    """Read arm, seed, right: a digit for each question of searching.held_out()."""
    return _table("searches")


def costs() -> pd.DataFrame:
    """Read job, kind, seconds."""
    return _table("costs")
