"""Read what notebook 02 has left for every set that was run.

    read_results    one csv of all sets, with the column `set`
    describe_sets   which sets were run, on which models, by which notebooks
    base_sizes      the size of each set's base model

No model is loaded: what is read lies in figures/<set>/.
"""

import json
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from harness.files import set_folders

Folders = Mapping[str, Path]


def read_results(
    name: str,
    columns: Collection[str],
    numbers: Collection[str],
    folders: Folders | None = None,
) -> pd.DataFrame:
    """Read `name`.csv of every set that has it, in the order of the sets.

    numbers: the columns that must hold finite numbers. folders: set -> its folder, by
    default those of figures/. The column `set` comes first. ValueError names the file
    and what is amiss.
    """
    frames = [pd.DataFrame(columns=["set", *columns])]
    for set_name, folder in (set_folders() if folders is None else folders).items():
        path = folder / f"{name}.csv"
        if not path.exists():
            continue
        try:
            frame = pd.read_csv(path, keep_default_na=False)
            missing = {*columns} - {*frame}
            if missing:
                raise ValueError(f"has no column {min(missing)!r}")
            for column in numbers:
                frame[column] = pd.to_numeric(frame[column], errors="coerce")
                if not np.isfinite(frame[column]).all():
                    raise ValueError(f"has {column} that is no number")
        except (ValueError, OSError) as error:
            again = f"run make reproduce SET={set_name} ONLY=02"
            reason = str(error).splitlines()[0]
            raise ValueError(f"{set_name}/{path.name} {reason}: {again}") from None
        frame = frame[[*columns]]
        frame.insert(0, "set", set_name)
        frames.append(frame)
    kept = [frame for frame in frames if len(frame)] or frames[:1]
    return pd.concat(kept, ignore_index=True)


def describe_sets(folders: Folders | None = None) -> pd.DataFrame:
    """Describe each set that was run, a row a set: models, numbers, notebooks.

    Of public weights the file and how its numbers were stored, as provenance has it.
    """
    rows = {}
    for set_name, folder in (set_folders() if folders is None else folders).items():
        models: dict[str, str] = {}
        for path in sorted(folder.glob("*_provenance.json")):
            about = json.loads(path.read_text(encoding="utf-8"))
            for model in about.get("models", {}).values():
                source = model.get("source", {})
                weights = [source.get("numbers", ""), model["dtype"]]
                models[model["name"]] = ", ".join(filter(None, weights))
        numbers = sorted(p.name[:2] for p in folder.glob("*.measured.csv"))
        rows[set_name] = {
            "models": "; ".join(models),
            "weights": "; ".join(dict.fromkeys(models.values())),
            "notebooks": " ".join(numbers),
        }
    return pd.DataFrame(rows).T.rename_axis("set")


def base_sizes(folders: Folders | None = None) -> dict[str, int]:
    """Read the size of each set's base model, where notebook 02's provenance says it.

    Counted are the parameters outside the embeddings and the head.
    """
    found = {}
    for set_name, folder in (set_folders() if folders is None else folders).items():
        path = folder / "02_provenance.json"
        if path.exists():
            base = json.loads(path.read_text(encoding="utf-8"))["models"].get(
                "base", {}
            )
            if "inner_parameters" in base:
                found[set_name] = int(base["inner_parameters"])
    return found
