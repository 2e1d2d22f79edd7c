"""Find a model's folder and check it, before torch is imported.

find_checkpoint     a mini model's name, a folder or a hub id -> the folder
verify_checkpoint   refuse a folder that is not whole, and a wrong checksum
count_parameters    how many numbers the weights hold, from their headers alone
check_memory        refuse what is larger than the memory
"""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

GPT2 = ("openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e")
QWEN = ("Qwen/Qwen2.5-1.5B-Instruct", "989aa7980e4cf806f80c7fef2b1adb7bc71aa306")
PINNED = {"gpt2": GPT2, GPT2[0]: GPT2, "qwen2.5-1.5b-instruct": QWEN, QWEN[0]: QWEN}
PACKAGE = Path(__file__).resolve().parent
MINI = PACKAGE.parent / "models"  # in a checkout; in the package once it is installed
if not (MINI / "mini-gpt2").is_dir():
    MINI = PACKAGE / "mini_models"
EMBEDDED = {name: MINI / name for name in ("mini-gpt2", "mini-qwen2")}
OFFLINE = 'the set "mini" (mini-gpt2, mini-qwen2) works offline'
FILES = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")  # taken from a hub
# dtypes that need no scale; whole numbers and masks are buffers, such as GPT-2's bias
NUMBERS = ("F64", "F32", "F16", "BF16", "I64", "BOOL", "U8")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "*.spm")


def find_checkpoint(name: str, revision: str | None = None) -> tuple[Path, str | None]:
    """Find the folder that holds a model -> folder, hub revision or None.

    A hub id is fetched if it is not cached. Raises FileNotFoundError for a name that
    is no model, OSError when the hub cannot be reached.
    """
    path = None if name in PINNED else _existing_folder(name)
    path = EMBEDDED.get(name, path)  # wherever we are, whatever lies there
    if path and revision:
        raise ValueError(f"{name!r} is a folder: revision={revision!r} is for a hub id")
    if path:
        return _model_folder(path, name), None
    hub, pinned = PINNED.get(name, (name.rstrip("/"), None))
    if hub.count("/") != 1 or hub.startswith((".", "/", "~")) or hub.endswith(".py"):
        known = ", ".join([*EMBEDDED, "gpt2", "qwen2.5-1.5b-instruct"])
        raise FileNotFoundError(
            f"no model {name[:80]!r}: expected one of {known}, a folder with "
            "config.json and *.safetensors, or a hub id owner/name"
        )
    return _fetch(hub, revision or pinned), revision or pinned


def _existing_folder(name: str) -> Path | None:
    try:
        path = Path(name).expanduser()
        return path if path.is_dir() else None
    except (RuntimeError, OSError, ValueError):  # no such home, a name too long
        return None


def _fetch(hub: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    try:
        folder = snapshot_download(
            hub,
            revision=revision,
            allow_patterns=list(FILES),
            ignore_patterns=["*/*"],
            local_files_only=not hub_answers(),  # its retries take half a minute
        )
    except (RepositoryNotFoundError, HFValidationError):
        raise FileNotFoundError(
            f"the hub has no model {hub!r} open to you; check the name; {OFFLINE}"
        ) from None
    except (OSError, ValueError, RuntimeError) as error:  # no network, a full disk
        raise OSError(
            f"cannot fetch {hub!r} (revision {revision or 'main'}) from the hub "
            f"({type(error).__name__}) and it is not cached; {OFFLINE}"
        ) from None
    return _model_folder(Path(folder), hub)


def hub_answers(seconds: float = 5) -> bool:
    """Tell whether the hub answers at all; a proxy is assumed to."""
    import socket
    from urllib.parse import urlparse
    from urllib.request import getproxies

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or getproxies():
        return not constants.HF_HUB_OFFLINE
    url = urlparse(constants.ENDPOINT)
    port = url.port or (80 if url.scheme == "http" else 443)
    try:
        socket.create_connection((url.hostname or "", port), seconds).close()
    except OSError:
        return False
    return True


def _model_folder(path: Path, name: str) -> Path:
    for pattern in ("config.json", "*.safetensors"):
        if not any(path.glob(pattern)):
            raise FileNotFoundError(
                f"{name!r} has no {pattern} in {path.name}/: a model folder holds "
                "config.json, a tokenizer and its weights as safetensors"
            )
    return path


def verify_checkpoint(folder: Path) -> None:
    """Refuse a folder that is not whole, or whose files do not match its SHA256.

    Looked at: its configuration, its tokenizer, the parts that an index of the weights
    names, the weights' headers, and the file SHA256 (`sha256sum` format), if there is
    one.
    """
    for file in folder.iterdir():
        if not (file.is_file() or file.is_dir()):  # a pipe would be waited for
            raise ValueError(f"{file.name} of {folder.name} is no ordinary file")
    model_type = _read_entry(folder / "config.json", "model_type", str)
    if not any(any(folder.glob(pattern)) for pattern in TOKENIZERS):
        raise FileNotFoundError(
            f"{folder.name} ({model_type}) has no tokenizer: expected one of "
            f"{', '.join(TOKENIZERS)} beside the weights"
        )
    for index in folder.glob("*.safetensors.index.json"):
        parts = {*map(str, _read_entry(index, "weight_map", dict).values())}
        outside = [p for p in parts if "/" in p or not p.endswith(".safetensors")]
        if outside:
            raise ValueError(
                f"{index.name} of {folder.name} names {ascii(min(outside))[:60]}: "
                "expected *.safetensors files beside it"
            )
        missing = sorted(part for part in parts if not (folder / part).is_file())
        if missing:
            raise FileNotFoundError(
                f"{folder.name} lacks {missing[0]} ({len(missing)} of {len(parts)} "
                "parts of its weights): fetch it again"
            )
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    stored = _stored_tensors(folder)
    packed = [k for k, (dtype, _) in stored.items() if dtype not in NUMBERS]
    if packed and not config.get("quantization_config"):
        raise ValueError(
            f"{packed[0]} of {folder.name} is {stored[packed[0]][0]}, and config.json "
            "does not say how it is quantised: take float weights"
        )
    layers = config.get("num_hidden_layers", config.get("n_layer", 0))
    if isinstance(layers, int) and layers > len(stored) > 0:
        raise ValueError(
            f"config.json of {folder.name} asks for {layers} layers, and the weights "
            f"hold {len(stored)} tensors: they do not belong together"
        )
    sums = folder / "SHA256"
    for line in sums.read_text().splitlines() if sums.is_file() else ():
        expected, _, name = line.strip().partition(" ")
        file = folder / name.strip().lstrip("*").split("/")[-1]
        found = _sha256(file) if file.is_file() else "no file"
        if line.strip() and found != expected.lower():
            raise ValueError(
                f"{file.name} of {folder.name} does not match its checksum (expected "
                f"{expected[:12]}, found {found[:12]}): restore it with git checkout"
            )


def _sha256(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _read_entry(file: Path, key: str, kind: type) -> Any:
    """Read one entry of a JSON file; ValueError unless it is of the kind expected."""
    try:
        entry = json.loads(file.read_text(encoding="utf-8"))[key]
    except (ValueError, LookupError, TypeError, OSError, RecursionError):
        entry = None
    if not isinstance(entry, kind):
        raise ValueError(
            f"{file.name} of {file.parent.name} is no model's configuration (JSON with "
            f'a "{key}"): fetch it again'
        )
    return entry


def count_parameters(folder: Path) -> int:
    """Count the parameters stored in a folder, from the safetensors headers alone."""
    return sum(math.prod(shape) for _, shape in _stored_tensors(folder).values())


def _stored_tensors(folder: Path) -> dict[str, tuple[str, list[int]]]:
    """Read the headers of the weights -> each tensor's name, dtype and shape.

    A second copy under another name (consolidated.safetensors) adds nothing.
    """
    from safetensors import SafetensorError, safe_open

    stored = {}
    named = sorted(folder.glob("model*.safetensors"))
    for file in named or folder.glob("*.safetensors"):
        try:
            with safe_open(file, framework="np") as weights:
                for key in weights.keys():
                    tensor = weights.get_slice(key)
                    stored[key] = tensor.get_dtype(), tensor.get_shape()
        except (SafetensorError, OSError, ValueError):
            raise ValueError(
                f"{file.name} in {folder.name} is not a safetensors file, or not whole "
                "(an unfinished download or a Git LFS pointer?): fetch it again"
            ) from None
    return stored


def first_line(error: Exception) -> str:
    """Return the first line of what an error says, or its name."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def free_memory() -> int:
    """Return the bytes of memory that can be had now."""
    import psutil

    return int(psutil.virtual_memory().available)


def check_memory(name: str, size: int, free: int, where: str = "memory") -> None:
    """Raise MemoryError unless weights of `size` bytes, and a fifth more, are free.

    The fifth is room for the cache and the logits.
    """
    if size * 1.2 > free:
        raise MemoryError(
            f"{name!r} needs about {size * 1.2 / 1e9:.1f} GB of {where}, "
            f"{free / 1e9:.1f} GB are free: close programs, take "
            'dtype="bfloat16", or a smaller model'
        )
