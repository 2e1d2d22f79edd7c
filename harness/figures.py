"""Figures: keep picture, data, alt text and provenance. Drawn in harness/charts.py.

    save         NN_name.png, .svg, .csv (4 significant digits), .alt.json
    by_claim     which figures bear on a claim
    provenance   NN_provenance.json: versions, device, parameters, hashes of inputs

Everything is written whole or not at all, and the same numbers give the same bytes.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING

import matplotlib

from harness import files, fingerprint, outputs, safe_text
from harness.charts import STYLE
from helpers.checkpoints import find_checkpoint

if TYPE_CHECKING:
    import pandas as pd
    from IPython.display import Image
    from matplotlib.figure import Figure
    from transformers import PreTrainedModel

    from helpers.models import LM

FOLDER_PARAMETERS = ("RUN_DIR", "FIGURES_DIR")  # where, not what: not in provenance


def save(
    figure: Figure,
    frame: pd.DataFrame,
    name: str,
    alt: str,
    set_name: str,
    claim_ids: str = "",
    figures_dir: str = "",
) -> Image:
    """Save NN_name.png, .svg, .csv and .alt.json; return the picture for display.

    frame: exactly what was drawn. alt: what the figure shows, for a reader who cannot
    see it; what is seen in it is added from the frame. claim_ids: as "R1 R2".
    """
    from IPython.display import Image

    if not alt.strip():
        raise ValueError(f"{name}: alt text is empty; say in one sentence what is seen")
    folder = files.figures_dir(set_name, figures_dir)
    alt = f"{alt.strip().rstrip('.')}. {getattr(figure, 'alt_text', '')}".strip()
    pictures = {}
    with matplotlib.rc_context(STYLE):
        for kind, empty in (("png", {"Software": None}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=110, metadata=empty)
            pictures[kind] = buffer.getvalue()
    text = safe_text.plain_cells(frame).to_csv(
        index=False, float_format="%.4g", lineterminator="\n"
    )
    about = {"alt": alt, "claims": claim_ids.split()}
    about["columns"] = [str(column) for column in frame.columns]
    files.write_whole(folder / f"{name}.csv", text)
    files.write_whole(folder / f"{name}.alt.json", _json(about))
    files.write_whole(folder / f"{name}.svg", pictures["svg"])
    files.write_whole(folder / f"{name}.png", pictures["png"])
    metadata = outputs.figure_metadata(name)
    return Image(data=pictures["png"], alt=alt, metadata=metadata)


def _json(about: dict) -> str:
    return json.dumps(about, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def by_claim(set_name: str, figures_dir: str = "") -> dict[str, list[str]]:
    """Claim id -> the names of the figures that bear on it."""
    found: dict[str, list[str]] = {}
    folder = files.figures_dir(set_name, figures_dir)
    for path in sorted(folder.glob("*.alt.json")):
        for claim in json.loads(path.read_text(encoding="utf-8"))["claims"]:
            found.setdefault(claim, []).append(path.name.removesuffix(".alt.json"))
    return found


def provenance(
    notebook: str,
    set_name: str,
    parameters: Mapping[str, object],
    models: Mapping[str, LM] | None = None,
    figures_dir: str = "",
) -> None:
    """Write NN_provenance.json: what these figures were made from, and with what.

    parameters: without those that say where results go. models: role -> a loaded model.
    """
    path = fingerprint.NOTEBOOKS / f"{notebook}.ipynb"
    kept = {k: v for k, v in parameters.items() if k not in FOLDER_PARAMETERS}
    about = {
        "notebook": notebook,
        "set": set_name,
        "parameters": {k: _public(v) for k, v in kept.items()},
        "versions": fingerprint.versions(),
        "hashes": fingerprint.notebook_inputs(path) if path.exists() else {},
        "models": {role: _model(lm) for role, lm in (models or {}).items()},
    }
    name = f"{notebook.split('_')[0]}_provenance.json"
    files.write_whole(files.figures_dir(set_name, figures_dir) / name, _json(about))


def _public(value: object) -> object:
    """A parameter as it may be published: folders by their last name."""
    if isinstance(value, str) and "/" in value and value.startswith(("/", "~", ".")):
        return value.rstrip("/").split("/")[-1]
    return value


def _model(lm: LM) -> dict:
    """What a model is; of public weights the file, its SHA-256 and licence too."""
    revision, name, digest, source = lm.revision or None, str(lm.name), "", {}
    if name:
        folder = find_checkpoint(name, revision)[0]
        digest = fingerprint.model_digest(folder)
        if (folder / "source.json").is_file():  # of public weights: models/public.py
            source = json.loads((folder / "source.json").read_text(encoding="utf-8"))
    about = {
        "name": _public(name),
        "revision": revision or "",
        "sha256": digest,
        "inner_parameters": _inner_parameters(lm.model),
        "device": str(lm.device).split(":")[0],
        "dtype": str(lm.dtype).removeprefix("torch."),
    }
    return about | ({"source": source} if source else {})


def _inner_parameters(model: PreTrainedModel) -> int:
    """Count a model's parameters outside its embeddings and its head, biases too."""
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    outside = {
        id(w) for table in tables if table is not None for w in table.parameters()
    }
    return sum(w.numel() for w in model.parameters() if id(w) not in outside)
