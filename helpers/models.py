"""`load` a causal language model by name, folder or hub id, and the named sets.

What can be refused is refused before torch is imported: unknown names, folders without
weights, weights that fail their checksum, a model larger than the memory. Weights are
read from safetensors only, and no code that comes with a model is ever run.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GPT2 = ("openai-community/gpt2", "607a30d783dfa663caf39e06633721c8d4cfcd7e")
QWEN = ("Qwen/Qwen2.5-1.5B-Instruct", "989aa7980e4cf806f80c7fef2b1adb7bc71aa306")
EMBEDDED = {name: ROOT / "models" / name for name in ("mini-gpt2", "mini-qwen2")}
PINNED = {"gpt2": GPT2, GPT2[0]: GPT2, "qwen2.5-1.5b-instruct": QWEN, QWEN[0]: QWEN}
SETS = {  # set -> base, instruct (DESIGN 4)
    "mini": ("mini-gpt2", "mini-qwen2"),
    "paper": (GPT2[0], QWEN[0]),
}
DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes a number
OFFLINE = 'the set "mini" (mini-gpt2, mini-qwen2) works offline'


@dataclass(frozen=True, eq=False)
class LM:
    """A model ready to use: `model`, `tokenizer`, `embed`, and where they came from.

    Wrap a model of your own with `LM(model, tokenizer)`; the tokenizer may be None
    where only ids and embeddings are used.
    """

    model: Any
    tokenizer: Any = None
    name: str = ""
    revision: str = ""
    _kept: dict = field(default_factory=dict, repr=False)  # compiled steps, norm bounds

    @property
    def device(self):
        """Where input embeddings live."""
        return self.model.get_input_embeddings().weight.device

    @property
    def dtype(self):
        """dtype of the embeddings."""
        return self.model.get_input_embeddings().weight.dtype

    @property
    def embed(self):
        """The (V,D) input embedding matrix, as `get_input_embeddings()` applies it."""
        table = self.model.get_input_embeddings()
        plain = type(table).__name__ == "Embedding"
        return table.weight.detach() if plain else self._scaled

    @cached_property
    def _scaled(self):  # Gemma and others multiply the rows by a factor
        import torch

        table = self.model.get_input_embeddings()
        with torch.no_grad():
            return table(torch.arange(table.weight.shape[0], device=self.device))

    @property
    def context(self) -> int:
        """Most positions the model can hold."""
        return self.model.config.get_text_config().max_position_embeddings

    @property
    def used(self) -> int:
        """Rows of embed that the tokenizer can name, counted from the first."""
        rows = self.embed.shape[0]
        return min(len(self.tokenizer), rows) if self.tokenizer is not None else rows

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a text, as `generate` would use them."""
        for config in (self.model.generation_config, self.model.config):
            ids = getattr(config, "eos_token_id", None)
            if ids is not None:
                return tuple(ids) if isinstance(ids, (list, tuple)) else (int(ids),)
        ids = getattr(self.tokenizer, "eos_token_id", None)
        return () if ids is None else (ids,)


def load(
    name: str,
    device: str = "auto",
    dtype: str = "float32",
    revision: str | None = None,
    device_map: str | dict | None = None,
) -> LM:
    """Load a model: a set member's name, a folder, or a hub id -> LM, in eval mode.

    name: "mini-gpt2", "mini-qwen2", "gpt2", "qwen2.5-1.5b-instruct", a path, or
    "owner/name". device: "auto" takes CUDA, then MPS if its first step agrees with the
    CPU's, then the CPU. dtype: float32, bfloat16 or float16. revision: a hub commit;
    the paper's models are pinned. device_map: handed to transformers for models that
    need several devices; `device` is then not used.
    Raises ValueError for a bad value or a failed checksum, FileNotFoundError for a
    missing model, OSError when the hub cannot be reached, MemoryError when too large.
    """
    dtype = str(dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {dtype!r}")
    if device != "auto" and str(device).split(":")[0] not in ("cpu", "cuda", "mps"):
        raise ValueError(f"device must be auto, cpu, cuda or mps, not {device!r}")
    folder, revision = find(str(name), revision)
    check(folder)
    need = parameters(folder) * DTYPES[dtype]
    _fits(name, need, _free_memory(), "memory")
    place = "cpu" if device_map else pick_device(str(device))

    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    if place.startswith("cuda"):
        _fits(name, need, torch.cuda.mem_get_info(place)[0], f"memory on {place}")
    safe = {"local_files_only": True, "trust_remote_code": False}
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=getattr(torch, dtype),
        use_safetensors=True,
        device_map=device_map,
        **safe,
    ).eval()
    model.requires_grad_(False)
    if not device_map:
        model = _place(model, place, device)
    tokenizer = AutoTokenizer.from_pretrained(folder, **safe)
    return LM(model, tokenizer, str(name), revision or "")


def chat_prompt(lm: LM, content: str) -> str:
    """One user turn in the model's own chat template, ready for an answer, as text.

    Raises ValueError when the tokenizer has no template.
    """
    if getattr(lm.tokenizer, "chat_template", None) is None:
        raise ValueError(
            f"{lm.name or 'this model'} has no chat template: take an "
            "instruction-tuned model, or give plain prompts"
        )
    turn = [{"role": "user", "content": content}]
    return lm.tokenizer.apply_chat_template(
        turn, tokenize=False, add_generation_prompt=True
    )


def find(name: str, revision: str | None = None) -> tuple[Path, str | None]:
    """The folder that holds a model, fetching a hub id if it is not cached."""
    if name in EMBEDDED:
        return _folder(EMBEDDED[name], name), revision
    path = Path(name).expanduser()
    if path.is_dir():
        return _folder(path, name), revision
    hub, pinned = PINNED.get(name, (name, None))
    if hub.count("/") != 1 or hub.startswith((".", "/", "~")) or path.suffix == ".py":
        known = ", ".join([*EMBEDDED, "gpt2", "qwen2.5-1.5b-instruct"])
        raise FileNotFoundError(
            f"no model {name!r}: expected one of {known}, a folder with config.json "
            "and *.safetensors, or a hub id owner/name"
        )
    return _fetch(hub, revision or pinned), revision or pinned


def _fetch(hub: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    wanted = ["*.json", "*.safetensors", "*.txt", "*.model", "*.jinja"]
    try:
        found = snapshot_download(
            hub, revision=revision, allow_patterns=wanted, ignore_patterns=["*/*"]
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
    return _folder(Path(found), hub)


def _folder(path: Path, name: str) -> Path:
    for needed in ("config.json", "*.safetensors"):
        if not any(path.glob(needed)):
            raise FileNotFoundError(
                f"{name!r} is a folder without {needed}; a model folder holds "
                "config.json, a tokenizer and its weights as safetensors"
            )
    return path


def check(folder: Path) -> None:
    """Compare a folder's files with its SHA256 (`sha256sum` format), if it has one."""
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


def parameters(folder: Path) -> int:
    """Number of parameters stored in a folder, from the safetensors headers alone."""
    total = 0
    for file in folder.glob("*.safetensors"):
        try:
            with open(file, "rb") as f:
                header = json.loads(f.read(struct.unpack("<Q", f.read(8))[0]))
        except (struct.error, ValueError, MemoryError, OverflowError):
            raise ValueError(
                f"{file.name} in {folder.name} is not a safetensors file (an "
                "unfinished download or a Git LFS pointer?): fetch it again"
            ) from None
        header.pop("__metadata__", None)
        for entry in header.values():
            count = 1
            for size in entry["shape"]:
                count *= size
            total += count
    return total


def pick_device(device: str) -> str:
    """Resolve "auto", and refuse a device this machine does not have."""
    import torch

    have = {
        "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }  # fmt: skip
    if device == "auto":
        return next(name for name, there in have.items() if there)
    if not have[device.split(":")[0]]:
        there = ", ".join(name for name, yes in have.items() if yes)
        raise ValueError(f"device {device!r} is not available here; available: {there}")
    return device


def _place(model, place: str, asked: str):
    """Move the model; on MPS keep it only if its first step agrees with the CPU's."""
    if not place.startswith("mps"):
        return model.to(place)
    before = first_logits(model)
    model = model.to(place)
    gap = (first_logits(model) - before).abs().max().item()
    if gap <= 0.05:  # float32 rounding is far below, a wrong kernel far above
        return model
    message = f"the first step on {place} differs from the CPU's by {gap:.3g}"
    if asked != "auto":
        warnings.warn(f"{message}: check results on device='cpu'", stacklevel=3)
        return model
    warnings.warn(f"{message}: using the CPU", stacklevel=3)
    return model.to("cpu")


def first_logits(model):
    """Next-token logits after ids 0 to 7, on the CPU in float32."""
    import torch

    ids = torch.arange(8, device=model.device)[None]
    with torch.no_grad():
        return model(input_ids=ids, logits_to_keep=1).logits[0, -1].float().cpu()


def _free_memory() -> int:
    import psutil

    return psutil.virtual_memory().available


def _fits(name: str, need: int, free: int, what: str) -> None:
    need = int(need * 1.2)  # weights, and room for the cache and the logits
    if need > free:
        raise MemoryError(
            f"{name!r} needs about {need / 1e9:.1f} GB of {what}, {free / 1e9:.1f} GB "
            'are free: close programs, take dtype="bfloat16", or a smaller model'
        )
