"""Figures: draw from a frame, save picture, data and provenance. Never compute.

    lines, scatter, bars, dots, heatmap, mixture_bars, table    drawn in charts.py
    by_claim     which figures bear on a claim
    save         NN_name.png, .svg, .csv (4 significant digits), .alt.json
    provenance   NN_provenance.json: versions, device, parameters, hashes of inputs

Everything is written whole or not at all, and the same numbers give the same bytes.
"""

import io
import json

import matplotlib

from harness import files, fingerprint
from harness.charts import STYLE
from helpers.checkpoints import find_checkpoint


def save(figure, frame, name, alt, set, claims="", figures_dir=""):
    """Save NN_name .png, .svg, .csv and .alt.json; return the picture for display.

    frame: exactly what was drawn. alt: what the figure shows, for a reader who cannot
    see it; what is seen in it is added from the frame. claims: ids, as "R1 R2".
    """
    from IPython.display import Image

    if not alt.strip():
        raise ValueError(f"{name}: alt text is empty; say in one sentence what is seen")
    folder = files.figures_dir(set, figures_dir)
    alt = f"{alt.strip().rstrip('.')}. {getattr(figure, 'told', '')}".strip()
    pictures = {}
    with matplotlib.rc_context(STYLE):
        for kind, empty in (("png", {"Software": None}), ("svg", {"Date": None})):
            buffer = io.BytesIO()
            figure.savefig(buffer, format=kind, dpi=110, metadata=empty)
            pictures[kind] = buffer.getvalue()
    text = frame.to_csv(index=False, float_format="%.4g", lineterminator="\n")
    about = {
        "alt": alt,
        "claims": claims.split(),
        "columns": list(map(str, frame.columns)),
    }
    files.write_whole(folder / f"{name}.csv", text)
    files.write_whole(folder / f"{name}.alt.json", _json(about))
    files.write_whole(folder / f"{name}.svg", pictures["svg"])
    files.write_whole(folder / f"{name}.png", pictures["png"])
    return Image(data=pictures["png"], alt=alt)


def _json(about: dict) -> str:
    return json.dumps(about, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def by_claim(set, figures_dir="") -> dict[str, str]:
    """Claim id -> the names of the figures that bear on it, of this run or kept."""
    found = {}
    for folder in (files.figures_dir(set, figures_dir), files.kept_dir(set)):
        for path in sorted(folder.glob("*.alt.json")):
            for claim in json.loads(path.read_text(encoding="utf-8"))["claims"]:
                found.setdefault(claim, {})[path.name.removesuffix(".alt.json")] = None
    return {claim: ", ".join(names) for claim, names in found.items()}


def provenance(notebook, set, parameters, models=None, figures_dir=""):
    """Write NN_provenance.json: what these figures were made from, and with what.

    models: role -> a loaded model (name, revision, device, dtype) or None.
    """
    path = fingerprint.NOTEBOOKS / f"{notebook}.ipynb"
    about = {
        "notebook": notebook,
        "set": set,
        "parameters": {k: _public(v) for k, v in parameters.items()},
        "versions": fingerprint.versions(),
        "hashes": fingerprint.notebook_inputs(path) if path.exists() else {},
        "models": {r: _model(m) for r, m in (models or {}).items() if m is not None},
    }
    name = f"{notebook.split('_')[0]}_provenance.json"
    files.write_whole(files.figures_dir(set, figures_dir) / name, _json(about))


def _public(value):
    """A parameter as it may be shown: folders by their last name."""
    shown = (
        isinstance(value, str) and "/" in value and value.startswith(("/", "~", "."))
    )
    return value.rstrip("/").split("/")[-1] if shown else value


def _model(lm) -> dict:

    revision = getattr(lm, "revision", "") or None
    name, hashed = str(getattr(lm, "name", "")), ""
    if name:
        hashed = fingerprint.model_digest(find_checkpoint(name, revision)[0])
    return {
        "name": _public(name),
        "revision": revision or "",
        "sha256": hashed,
        "device": str(getattr(lm, "device", "")).split(":")[0],
        "dtype": str(getattr(lm, "dtype", "")).removeprefix("torch."),
    }
