"""Load a causal language model by name, folder or hub id.

What can be refused is refused before torch is imported: unknown names, folders without
weights, weights that fail their checksum, a model larger than the memory. Weights are
read from safetensors only, and no code that comes with a model is ever run.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .checkpoints import (
    check_memory,
    count_parameters,
    find_checkpoint,
    first_line,
    free_memory,
    verify_checkpoint,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

DEVICES = r"auto|cpu|mps|cuda(:\d+)?"  # a pattern of what `load` takes
DTYPES = {"float32": 4, "bfloat16": 2, "float16": 2}  # bytes a number
LOCAL = {"local_files_only": True, "trust_remote_code": False}  # for from_pretrained
# put before a chat template that asks for the date: the same prompt on any day
TODAY = (
    "{% macro strftime_now(form) %}{{ form.replace('%d', '01').replace('%m', '01')"
    ".replace('%b', 'Jan').replace('%B', 'January').replace('%Y', '2026') }}"
    "{% endmacro %}"
)
MPS_TOLERANCE = 0.05  # of a logit: float32 rounding is far below, a wrong kernel above


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
    _cache: dict[Any, Any] = field(default_factory=dict, repr=False)  # graphs, bounds

    def __post_init__(self) -> None:
        _make_head_input_contiguous(self.model)

    @property
    def _weight(self) -> Tensor:
        return self.model.get_input_embeddings().weight

    @property
    def device(self) -> torch.device:
        """Where input embeddings live."""
        return self._weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The embeddings' dtype."""
        return self._weight.dtype

    @property
    def embed(self) -> Tensor:
        """The (V,D) input embedding matrix, as `get_input_embeddings()` applies it."""
        table = self.model.get_input_embeddings()
        if type(table).__name__ == "Embedding":
            return table.weight.detach()
        # Gemma and others multiply the rows by a factor
        return self.remember("embed", lambda: _all_rows(table))

    def remember(self, key: Any, make: Callable[[], Any]) -> Any:
        """Return make(), made again only when the embedding matrix has changed."""
        weight = self._weight
        kept = self._cache.get(key)
        if kept is None or kept[0] is not weight or kept[1] != weight._version:
            kept = self._cache[key] = weight, weight._version, make()
        return kept[2]

    @property
    def context(self) -> int:
        """Most positions the model can hold; sys.maxsize where it names no limit."""
        config = self.model.config.get_text_config()
        names = ("max_position_embeddings", "max_seq_len")
        limits = [getattr(config, name, None) for name in names]
        return next((int(n) for n in limits if n and n > 0), sys.maxsize)

    @property
    def used(self) -> int:
        """Rows of embed that the tokenizer can name, counted from the first."""
        rows = self._weight.shape[0]
        return rows if self.tokenizer is None else min(len(self.tokenizer), rows)

    @property
    def eos_ids(self) -> tuple[int, ...]:
        """Ids that end a text, as `generate` would use them."""
        for source in (self.model.generation_config, self.model.config, self.tokenizer):
            ids = getattr(source, "eos_token_id", None)
            if ids is not None:
                return tuple(ids) if isinstance(ids, (list, tuple)) else (int(ids),)
        return ()


def _all_rows(table: Any) -> Any:
    import torch

    with torch.no_grad():
        return table(torch.arange(len(table.weight), device=table.weight.device))


def load(
    name: str,
    device: str = "auto",
    dtype: str = "float32",
    revision: str | None = None,
    device_map: str | dict[str, Any] | None = None,
) -> LM:
    """Load a model in eval mode: by a known name, a folder, or a hub id.

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
    size = count_parameters(folder) * DTYPES[dtype]
    target = "cpu" if device_map else pick_device(str(device))
    check_memory(name, size, free_memory() + (gpu_memory() if device_map else 0))
    if target.startswith("cuda"):
        check_memory(name, size, gpu_memory(target), f"memory on {target}")
    model = _read_model(folder, name, dtype, device_map)
    if not device_map:
        model = _move(model, target, device)
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
    except Exception as error:  # whatever its files make the library raise
        message = f"{name!r}: no tokenizer: {first_line(error)}"
        raise FileNotFoundError(message) from None
    lm = LM(model, tokenizer, str(name), revision or "")
    check_embeddings(lm)
    return lm


def _make_head_input_contiguous(model: Any) -> None:
    """Copy what a model's head reads, where it is a slice of all positions.

    logits_to_keep makes it one. torch.nn.functional.linear then has a weight without
    gradients read again, or even copied, for every row of a batch: with Qwen's
    vocabulary 3 times as long for 8 rows in float32, and 300 times in bfloat16.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is not None and _contiguous not in head._forward_pre_hooks.values():
        head.register_forward_pre_hook(_contiguous)


def _contiguous(_: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(x.contiguous() for x in args)


def _read_model(folder: Path, name: str, dtype: str, device_map: Any) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()
    how = {"dtype": getattr(torch, dtype), "device_map": device_map, **LOCAL}
    how |= {"use_safetensors": True, "output_loading_info": True}
    try:
        config = AutoConfig.from_pretrained(folder, **LOCAL)
        attention = str(config._attn_implementation)
        method = (getattr(config, "quantization_config", None) or {}).get(
            "quant_method"
        )
        if "/" in attention:
            raise ValueError(f"its attention {attention!r} is code from a hub")
        if method and method not in AUTO_QUANTIZATION_CONFIG_MAPPING:
            raise ValueError(f"its quantization {method!r} is none transformers knows")
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, config=config, ignore_mismatched_sizes=True, **how
        )
    except Exception as error:  # whatever its files make the library raise
        raise ValueError(f"cannot load {name!r}: {first_line(error)}") from None
    shapes = [
        f"{k} {(*found,)} for {(*due,)}" for k, found, due in report["mismatched_keys"]
    ]
    for wrong, names in (
        ("lack", report["missing_keys"]),  # transformers would fill them at random
        ("have the wrong shape:", shapes),
        ("hold what the model does not take:", report["unexpected_keys"]),
    ):
        if names:
            raise ValueError(
                f"cannot load {name!r}: its weights {wrong} {min(names)} and "
                f"{len(names) - 1} more; do config.json and weights belong together?"
            )
    return model.eval().requires_grad_(False)


def check_embeddings(lm: LM) -> None:
    """Raise ValueError unless `check_model` passes and ids give what lm.embed does."""
    import torch

    from .batching import check_model

    check_model(lm.model)
    ids = torch.arange(1, 7, device=lm.device)[None] * len(lm.embed) // 7
    with torch.no_grad():
        by_id = lm.model(input_ids=ids, use_cache=False).logits
        by_row = lm.model(inputs_embeds=lm.embed[ids], use_cache=False).logits
    if (by_id - by_row).abs().max() > 1e-3 * by_id.std():
        raise ValueError(
            f"{type(lm.model).__name__} reads more from token ids than the rows of its "
            "input embeddings, which a mixture cannot give"
        )


def chat_prompt(lm: LM, content: str) -> str:
    """Write one user turn in the model's own chat template, ready for an answer.

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
    how: dict[str, Any] = {"add_generation_prompt": True}
    if "strftime_now" in (template := str(lm.tokenizer.get_chat_template())):
        how["chat_template"] = TODAY + template
    try:
        return lm.tokenizer.apply_chat_template(turn, tokenize=False, **how)
    except Exception as error:  # a template is a program: anything may go wrong in it
        raise ValueError(f"the chat template fails: {first_line(error)}") from None


def gpu_memory(device: str | None = None) -> int:
    """Return the free bytes of one CUDA device, or of all of them together."""
    import torch

    devices = [device] if device else range(torch.cuda.device_count())
    return sum(torch.cuda.mem_get_info(d)[0] for d in devices)


def pick_device(device: str) -> str:
    """Resolve "auto", and raise ValueError for a device this machine does not have."""
    import torch

    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    names = ["cuda"] * cuda + ["mps"] * mps + ["cpu"]
    if device == "auto":
        return names[0]
    if device.split(":")[0] not in names:
        raise ValueError(
            f"device {device!r} is not available here; available: {', '.join(names)}"
        )
    return device


def _move(model: Any, device: str, asked: str) -> Any:
    """Move the model; on MPS keep it only if its first step agrees with the CPU's."""
    if not device.startswith("mps"):
        return model.to(device)
    before = first_logits(model)
    model = model.to(device)
    gap = (first_logits(model) - before).abs().max().item()
    if gap <= MPS_TOLERANCE:
        return model
    auto = asked == "auto"
    advice = "using the CPU" if auto else "check results on device='cpu'"
    message = f"the first step on {device} differs from the CPU's by {gap:.3g}"
    warnings.warn(f"{message}: {advice}", stacklevel=3)
    return model.to("cpu") if auto else model


def first_logits(model: Any) -> Tensor:
    """Compute next-token logits (V,) after ids 0 to 7, on the CPU in float32."""
    import torch

    ids = torch.arange(8, device=model.device)[None]
    with torch.no_grad():
        return model(input_ids=ids, logits_to_keep=1).logits[0, -1].float().cpu()
