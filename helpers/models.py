"""`load` a causal language model by name, folder or hub id, and the named sets.

What can be refused is refused before torch is imported: unknown names, folders without
weights, weights that fail their checksum, a model larger than the memory. Weights are
read from safetensors only, and no code that comes with a model is ever run.
"""

from __future__ import annotations

import re
import sys
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .checkpoints import (
    GPT2,
    QWEN,
    check_memory,
    count_parameters,
    find_checkpoint,
    free_memory,
    verify_checkpoint,
)

SETS = {  # set -> base, instruct (DESIGN 4)
    "mini": ("mini-gpt2", "mini-qwen2"),
    "paper": (GPT2[0], QWEN[0]),
}
SAFE = {"local_files_only": True, "trust_remote_code": False}
DEVICES = r"auto|cpu|mps|cuda(:\d+)?"
DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes a number


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
    if not re.fullmatch(DEVICES, str(device)):
        raise ValueError(f"device must be auto, cpu, cuda or mps, not {device!r}")
    folder, revision = find_checkpoint(str(name), revision)
    verify_checkpoint(folder)
    need = count_parameters(folder) * DTYPES[dtype]
    place = "cpu" if device_map else pick_device(str(device))
    free = free_memory() + (other_memory() if device_map else 0)
    check_memory(name, need, free, "memory")

    import torch
    from transformers import AutoTokenizer
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    if place.startswith("cuda"):
        check_memory(
            name, need, torch.cuda.mem_get_info(place)[0], f"memory on {place}"
        )
    model = _read(folder, name, getattr(torch, dtype), device_map)
    if not device_map:
        model = _place(model, place, device)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **SAFE)
    except (OSError, ValueError, KeyError) as error:
        raise FileNotFoundError(f"{name!r}: no tokenizer: {_line(error)}") from None
    return LM(model, tokenizer, str(name), revision or "")


def _read(folder, name, dtype, device_map):
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        model, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            device_map=device_map,
            output_loading_info=True,
            **SAFE,
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"cannot load {name!r}: {_line(error)}") from None
    if report["missing_keys"]:  # transformers would go on with random numbers
        missing = sorted(report["missing_keys"])
        raise ValueError(
            f"cannot load {name!r}: its weights lack {missing[0]} and "
            f"{len(missing) - 1} more that its config.json asks for"
        )
    return model.eval().requires_grad_(False)


def _line(error: Exception) -> str:
    """The first line of an error, cut to what fits on one."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def chat_prompt(lm: LM, content: str) -> str:
    """One user turn in the model's own chat template, ready for an answer, as text.

    Raises ValueError when the tokenizer has no template.
    """
    tokenizer = getattr(lm, "tokenizer", None)
    if getattr(tokenizer, "chat_template", None) is None:
        raise ValueError(
            f"{getattr(lm, 'name', '') or 'this model'} has no chat template: take an "
            "instruction-tuned model, or give plain prompts"
        )
    if not isinstance(content, str) or not content:
        raise ValueError(f"a chat turn must be a text, not {ascii(content)[:60]}")
    turn = [{"role": "user", "content": content}]
    return lm.tokenizer.apply_chat_template(
        turn, tokenize=False, add_generation_prompt=True
    )


def other_memory() -> int:
    """Free bytes on all accelerators together, for a model spread by device_map."""
    import torch

    count = torch.cuda.device_count()
    return sum(torch.cuda.mem_get_info(i)[0] for i in range(count))


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
