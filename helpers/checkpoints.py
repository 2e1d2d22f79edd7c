"""Which folder holds a model, and may it be loaded? Asked before torch is imported.

find         a set member's name, a folder or a hub id -> the folder
check        refuse weights that do not match their checksum, and half a folder
parameters   how many numbers the weights hold, from their headers alone
fits         refuse what is larger than the memory
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from pathlib import Path

GPT2 = ("openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e")
QWEN = ("Qwen/Qwen2.5-1.5B-Instruct", "989aa7980e4cf806f80c7fef2b1adb7bc71aa306")
HERE = Path(__file__).resolve().parent


def _embedded(name: str) -> Path:
    """Find a mini model: beside this package in a checkout, in it once installed."""
    checkout = HERE.parent / "models" / name
    return checkout if checkout.is_dir() else HERE / "mini_models" / name


EMBEDDED = {name: _embedded(name) for name in ("mini-gpt2", "mini-qwen2")}
PINNED = {"gpt2": GPT2, GPT2[0]: GPT2, "qwen2.5-1.5b-instruct": QWEN, QWEN[0]: QWEN}
OFFLINE = 'the set "mini" (mini-gpt2, mini-qwen2) works offline'


def find_checkpoint(name: str, revision: str | None = None) -> tuple[Path, str | None]:
    """The folder that holds a model, fetching a hub id if it is not cached."""
    if name in EMBEDDED:  # where it lies, whatever the working directory holds
        return _folder(EMBEDDED[name], name), revision
    path, there = Path(name), False
    try:
        path = path.expanduser()
        there = path.is_dir()
    except (RuntimeError, OSError, ValueError):
        pass  # no such home, a name too long: no folder
    if name not in PINNED and there:
        return _folder(path, name), revision
    hub, pinned = PINNED.get(name, (name, None))
    hub = hub.rstrip("/")
    if hub.count("/") != 1 or hub.startswith((".", "/", "~")) or path.suffix == ".py":
        known = ", ".join([*EMBEDDED, "gpt2", "qwen2.5-1.5b-instruct"])
        raise FileNotFoundError(
            f"no model {name[:80]!r}: expected one of {known}, a folder with "
            "config.json and *.safetensors, or a hub id owner/name"
        )
    return _fetch(hub, revision or pinned), revision or pinned


def _fetch(hub: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    wanted = {"allow_patterns": ["*.json", "*.safetensors", "*.txt", "*.model",
                                 "*.jinja"], "ignore_patterns": ["*/*"]}  # fmt: skip
    try:
        if not _reachable():  # the hub's own retries take half a minute to say so
            wanted["local_files_only"] = True
        found = snapshot_download(hub, revision=revision, **wanted)
    except (RepositoryNotFoundError, HFValidationError):
        raise FileNotFoundError(
            f"the hub has no model {hub!r} open to you; check the name; {OFFLINE}"
        ) from None
    except (OSError, ValueError, RuntimeError) as error:  # no network, a full disk
        raise OSError(
            f"cannot fetch {hub!r} (revision {revision or 'main'}) from the hub "
            f"({type(error).__name__}) and it is not cached; {OFFLINE}"
        ) from None
    return _folder(Path(found), hub)


def _reachable(seconds: float = 5) -> bool:
    """Whether the hub answers at all; a proxy is taken at its word."""
    import socket
    from urllib.parse import urlparse
    from urllib.request import getproxies

    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE or getproxies():
        return not constants.HF_HUB_OFFLINE
    there = urlparse(constants.ENDPOINT)
    port = there.port or (80 if there.scheme == "http" else 443)
    try:
        socket.create_connection((there.hostname, port), seconds).close()
    except OSError:
        return False
    return True


def _folder(path: Path, name: str) -> Path:
    for needed in ("config.json", "*.safetensors"):
        if not any(path.glob(needed)):
            raise FileNotFoundError(
                f"{name!r} has no {needed} in {path.name}/: a model folder holds "
                "config.json, a tokenizer and its weights as safetensors"
            )
    return path


TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "*.spm")


def verify_checkpoint(folder: Path) -> None:
    """Refuse a folder that is not whole: its configuration, tokenizer and shards, and
    its SHA256 (`sha256sum` format), if it has one."""
    try:
        kind = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        kind = kind["model_type"]
    except (ValueError, KeyError, TypeError, OSError):
        raise ValueError(
            f"config.json of {folder.name} is no model's configuration (JSON with a "
            '"model_type"): fetch it again'
        ) from None
    if not any(any(folder.glob(pattern)) for pattern in TOKENIZERS):
        raise FileNotFoundError(
            f"{folder.name} ({kind}) has no tokenizer: expected one of "
            f"{', '.join(TOKENIZERS)} beside the weights"
        )
    for index in folder.glob("*.safetensors.index.json"):
        listed = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        parts = set(listed.values())
        missing = sorted(part for part in parts if not (folder / part).is_file())
        if missing:
            raise FileNotFoundError(
                f"{folder.name} lacks {missing[0]} ({len(missing)} of {len(parts)} "
                "parts of its weights): fetch it again"
            )
    listed = folder / "SHA256"
    if not listed.is_file():
        return
    for line in filter(str.strip, listed.read_text().splitlines()):
        expected, file = line.split(maxsplit=1)
        file = folder / file.strip().lstrip("*").split("/")[-1]
        held = file.read_bytes() if file.exists() else b""
        found = hashlib.sha256(held).hexdigest()
        if found != expected.lower():
            raise ValueError(
                f"{file.name} of {folder.name} does not match its checksum (expected "
                f"{expected[:12]}, found {found[:12]}): restore it with git checkout"
            )


def count_parameters(folder: Path) -> int:
    """Number of parameters stored in a folder, from the safetensors headers alone."""
    total = 0
    for file in folder.glob("*.safetensors"):
        try:
            with open(file, "rb") as f:
                (size,) = struct.unpack("<Q", f.read(8))
                header = json.loads(f.read(size))
            header.pop("__metadata__", None)
            total += sum(math.prod(entry["shape"]) for entry in header.values())
            ends = [entry["data_offsets"][1] for entry in header.values()]
            if 8 + size + max(ends, default=0) != file.stat().st_size:
                raise ValueError("cut short")
        except (struct.error, ValueError, MemoryError, OverflowError, KeyError,
                TypeError, AttributeError):  # fmt: skip
            raise ValueError(
                f"{file.name} in {folder.name} is not a safetensors file, or not whole "
                "(an unfinished download or a Git LFS pointer?): fetch it again"
            ) from None
    return total


def free_memory() -> int:
    import psutil

    return psutil.virtual_memory().available


def check_memory(name: str, need: int, free: int, what: str) -> None:
    need = int(need * 1.2)  # weights, and room for the cache and the logits
    if need > free:
        raise MemoryError(
            f"{name!r} needs about {need / 1e9:.1f} GB of {what}, {free / 1e9:.1f} GB "
            'are free: close programs, take dtype="bfloat16", or a smaller model'
        )
