"""What `generate(inputs_embeds=...)` returns, under six releases of transformers.

    python versions/matrix.py            # about ten minutes; needs the package index
    python versions/matrix.py --versions 4.57.6 5.0.0

The driver (no `--row`) uses the standard library only.  For each release it makes a
virtual environment in a temporary folder, installs torch and that release, runs this
same file there with `--row`, and deletes the environment before the next one.  A row
needs no weights: GPT-2 and Qwen2 are built from a config, with random weights.

Columns of figures/version_matrix.csv, one row a release and architecture:
  returned_length  entries `generate` returned for a prompt of 6 and 8 new tokens
  returned         what those entries are: new only | BOS + new | prompt + new | other
  lost_by_slicing  generated tokens that `output[0][prompt_length:]` throws away
  ids_equal_embeds logits from ids and from their embeddings, bit for bit
  one_vector       a prompt of one vector, against a plain loop without `generate`:
                   right | repeated (the vector is fed again at every step) | other
A check that raises puts its exception into its cells; it never drops the row.
"""

import argparse
import csv
import json
import os
import platform
import subprocess
import tempfile
import venv
from importlib import metadata
from pathlib import Path

# release -> the tokenizers and huggingface_hub it is measured with
RELEASES = {
    "4.37.2": ("0.15.2", "0.36.2"),
    "4.46.3": ("0.20.3", "0.36.2"),
    "4.49.0": ("0.21.4", "0.36.2"),
    "4.57.6": ("0.22.2", "0.36.2"),
    "5.0.0": ("0.22.2", "1.33.0"),
    "5.23.0": ("0.23.3", "2.4.0"),
}
SHARED = ("torch==2.13.0", "numpy==2.4.6")
CSV = Path(__file__).resolve().parent.parent / "figures" / "version_matrix.csv"
PACKAGES = ("torch", "numpy", "tokenizers", "huggingface_hub")
COLUMNS = (
    "transformers",
    "architecture",
    "returned_length",
    "returned",
    "lost_by_slicing",
    "ids_equal_embeds",
    "one_vector",
    "python",
    *PACKAGES,
)
PROMPT, NEW, SEED = (5, 23, 7, 61, 40, 12), 8, 0


# --- inside a throw-away environment -------------------------------------------------


def tiny_model(architecture: str):
    """A random two-layer model with bos and eos set, in evaluation mode."""
    import torch
    import transformers

    shared = {
        "vocab_size": 97,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "initializer_range": 0.5,
        "tie_word_embeddings": True,
    }
    if architecture == "gpt2":
        config = transformers.GPT2Config(
            n_embd=32, n_layer=2, n_head=4, n_positions=64, **shared
        )
        cls = transformers.GPT2LMHeadModel
    else:
        config = transformers.Qwen2Config(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
            **shared,
        )
        cls = transformers.Qwen2ForCausalLM
    torch.manual_seed(SEED)
    return cls(config).eval()


def plain_loop(model, embeds, steps, repeat=False):
    """Greedy tokens by full recompute, no cache and no `generate`.

    With `repeat` the last vector of the prompt is appended at every step in place of
    the embedding of the token just chosen: the fault the matrix looks for.
    """
    import torch

    table, tokens = model.get_input_embeddings().weight, []
    for _ in range(steps):
        token = model(inputs_embeds=embeds).logits[0, -1].argmax()
        tokens.append(int(token))
        following = embeds[:, -1:] if repeat else table[token][None, None]
        embeds = torch.cat([embeds, following], dim=1)
    return tokens


def returned_tokens(model):
    """The three columns about the length and the kind of what `generate` returned."""
    import torch

    ids = torch.tensor([PROMPT])
    embeds = model.get_input_embeddings()(ids)
    new = plain_loop(model, embeds, NEW)
    assert model.config.eos_token_id not in new, "this seed meets EOS: choose another"
    out = model.generate(inputs_embeds=embeds, max_new_tokens=NEW, do_sample=False)
    out = out[0].tolist()
    kinds = {
        "new only": new,
        "BOS + new": [model.config.bos_token_id, *new],
        "prompt + new": [*PROMPT, *new],
    }
    kind = next((name for name, tokens in kinds.items() if tokens == out), "other")
    kept = out[len(PROMPT) :]
    lost = NEW - len(kept) if kind != "other" else "unknown"
    return {"returned_length": len(out), "returned": kind, "lost_by_slicing": lost}


def equal_logits(model):
    import torch

    ids = torch.tensor([PROMPT])
    embeds = model.get_input_embeddings()(ids)
    by_ids, by_embeds = model(ids).logits, model(inputs_embeds=embeds).logits
    return {"ids_equal_embeds": torch.equal(by_ids, by_embeds)}


def one_vector(model):
    import torch

    vector = model.get_input_embeddings()(torch.tensor([PROMPT[:1]]))
    right = plain_loop(model, vector, NEW)
    repeated = plain_loop(model, vector, NEW, repeat=True)
    assert right != repeated, "this seed cannot tell right from repeated"
    out = model.generate(inputs_embeds=vector, max_new_tokens=NEW, do_sample=False)
    new = out[0].tolist()[-NEW:]
    return {
        "one_vector": "right"
        if new == right
        else "repeated"
        if new == repeated
        else "other"
    }


def rows_here():
    """The rows of the release installed in this interpreter."""
    import torch

    versions = {name: metadata.version(name).split("+")[0] for name in PACKAGES}
    rows = []
    for architecture in ("gpt2", "qwen2"):
        row = {
            "transformers": metadata.version("transformers"),
            "architecture": architecture,
            "python": platform.python_version(),
            **versions,
        }
        for check, columns in (
            (returned_tokens, COLUMNS[2:5]),
            (equal_logits, COLUMNS[5:6]),
            (one_vector, COLUMNS[6:7]),
        ):
            try:
                with torch.no_grad():
                    row |= check(tiny_model(architecture))
            except Exception as error:  # noqa: BLE001 (an exception is a row)
                row |= dict.fromkeys(columns, one_line(error))
        rows.append(row)
    return rows


# --- the driver ----------------------------------------------------------------------


def one_line(error) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160]


def run(command):
    """Run a command; its standard output, or a RuntimeError with its last line."""
    done = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return done.stdout


def rows_of(release):
    """The rows of one release, measured in an environment that is then deleted.

    An install that fails says nothing about the release: it ends the run, and the
    csv stays as it was.  A release that installs and then fails is a row.
    """
    with tempfile.TemporaryDirectory(prefix="version-matrix-") as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder, "Scripts" if os.name == "nt" else "bin", "python"))
        tokenizers, hub = RELEASES[release]
        packages = [
            *SHARED,
            f"transformers=={release}",
            f"tokenizers=={tokenizers}",
            f"huggingface_hub=={hub}",
        ]
        try:
            run([python, "-m", "pip", "install", "--quiet", *packages])
        except RuntimeError as error:
            raise SystemExit(
                f"version-matrix: could not install {' '.join(packages)}"
                f" ({error}); {CSV.name} is left as it was"
            ) from error
        try:
            return json.loads(run([python, __file__, "--row"]).splitlines()[-1])
        except RuntimeError as error:
            blank = dict.fromkeys(COLUMNS[2:7], one_line(error))
            return [{"transformers": release, "architecture": "", **blank}]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--versions",
        nargs="+",
        default=list(RELEASES),
        choices=RELEASES,
        metavar="VERSION",
    )
    parser.add_argument("--out", type=Path, default=CSV)
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.row:
        print(json.dumps(rows_here()))
        return
    rows = []
    for release in args.versions:
        print(f"transformers {release} ...", flush=True)
        rows += rows_of(release)
        for row in rows:
            if row["transformers"] == release:
                print("  " + " | ".join(str(row[c]) for c in COLUMNS[1:7]), flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    aside = args.out.with_suffix(".csv.partial")
    with aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    os.replace(aside, args.out)
    print(f"wrote {args.out.name}: {len(rows)} rows")


if __name__ == "__main__":
    main()
