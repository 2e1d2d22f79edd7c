"""Train the mini models from scratch: `python -m models.train [NAME ...] [--seed N]`.

Writes a complete Hugging Face folder models/<name>/ (config, tokenizer, safetensors,
generation config, SHA256). A killed run resumes from its last checkpoint under
models/_work/, which is not committed. Everything is seeded: corpus, weights, order.

Hidden matrices learn by Muon (Jordan et al. 2024), the rest by AdamW, in bfloat16
autocast: about twice as many tokens a second as float32 on a CPU with AVX-512 bf16.
"""

import argparse
import hashlib
import json
import math
import os
import random
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from tqdm import tqdm
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from models.chat import SYSTEM
from models.corpus import sample_document

HERE = Path(__file__).resolve().parent
ROW = 256  # tokens a training row; a row begins where a document begins
BATCH = 16  # rows a step
STEPS = {"mini-gpt2": 5500, "mini-qwen2": 6000}
PEAK_LR = 4e-3  # both optimisers: Muon's update is scaled to AdamW's size
SAVE_EVERY = 300  # steps between checkpoints
WARMUP, FLOOR = 100, 0.02  # steps; share of the peak that the cosine ends at
TOKENIZER_DOCUMENTS = 20_000
VOCAB = {"mini-gpt2": 1536, "mini-qwen2": 2048}
WIDTH, LAYERS, HEADS = 128, 4, 4
# How Qwen2 splits text before BPE: one digit a piece, a leading space kept with a word.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHATML = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\n"
    + SYSTEM
    + "<|im_end|>\n"
    "{% endif %}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def make_tokenizer(name: str, folder: Path) -> PreTrainedTokenizerFast:
    """Train and save a byte-level BPE tokenizer on sampled documents (seed 1)."""
    qwen = name == "mini-qwen2"
    special = ["<|endoftext|>"] + ["<|im_start|>", "<|im_end|>"] * qwen
    tok = Tokenizer(models.BPE())
    if qwen:
        tok.normalizer = normalizers.NFC()
        tok.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ])  # fmt: skip
    else:
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    rng = random.Random(1)
    texts = [sample_document(rng, name) for _ in range(TOKENIZER_DOCUMENTS)]
    for marker in special:  # the markers are no text to learn merges from
        texts = [t.replace(marker, "\n") for t in texts]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB[name] - len(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tok.train_from_iterator(texts, trainer)
    tok.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tok,
        eos_token="<|im_end|>" if qwen else "<|endoftext|>",
        pad_token="<|endoftext|>" if qwen else None,
        bos_token=None if qwen else "<|endoftext|>",
        additional_special_tokens=special[1:] or None,
        model_max_length=1024 if qwen else ROW,
        clean_up_tokenization_spaces=False,
    )
    if qwen:
        fast.chat_template = CHATML
    fast.save_pretrained(folder)
    return fast


def make_model(name: str, tokenizer):
    """A freshly initialised model of the paper's class for this tokenizer."""
    end, eos = tokenizer.convert_tokens_to_ids("<|endoftext|>"), tokenizer.eos_token_id
    if name == "mini-gpt2":
        return GPT2LMHeadModel(GPT2Config(
            vocab_size=len(tokenizer), n_positions=ROW, n_embd=WIDTH, n_layer=LAYERS,
            n_head=HEADS, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
            bos_token_id=end, eos_token_id=eos, tie_word_embeddings=True,
            activation_function="gelu_pytorch_tanh",  # gelu_new, as one fused kernel
        ))  # fmt: skip
    return Qwen2ForCausalLM(Qwen2Config(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=352,
        num_hidden_layers=LAYERS, num_attention_heads=HEADS, num_key_value_heads=2,
        max_position_embeddings=1024, tie_word_embeddings=True,
        bos_token_id=end, eos_token_id=eos, pad_token_id=end,
    ))  # fmt: skip


def make_rows(name: str, tokenizer, rows: int, seed: int) -> np.ndarray:
    """Training rows (rows, ROW): whole documents with their end marks, cut at ROW."""
    rng = random.Random(f"{name} {seed}")
    end = tokenizer.convert_tokens_to_ids("<|endoftext|>")
    out = np.empty((rows, ROW), dtype=np.int16)
    done, row = 0, []
    while done < rows:
        texts = [sample_document(rng, name) for _ in range(2000)]
        for ids in tokenizer(texts)["input_ids"]:
            row += [*ids, end]
            if len(row) >= ROW:
                out[done] = row[:ROW]
                done, row = done + 1, []
                if done == rows:
                    break
    return out


def learning_rate(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine down to FLOOR of the peak."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    turn = (step - WARMUP) / max(1, steps - WARMUP)
    return FLOOR + (1 - FLOOR) * 0.5 * (1 + math.cos(math.pi * turn))


def _optimisers(model):
    hidden = [
        p
        for n, p in model.named_parameters()
        if p.ndim == 2 and not any(k in n for k in ("wte", "wpe", "embed", "lm_head"))
    ]
    chosen = {id(p) for p in hidden}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return (
        torch.optim.Muon(hidden, lr=PEAK_LR, weight_decay=0.01, momentum=0.95,
                         adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=PEAK_LR, betas=(0.9, 0.98), weight_decay=0.0),
    )  # fmt: skip


def _save_aside(write, path: Path):
    aside = path.with_name(path.name + ".part")
    write(aside)
    os.replace(aside, path)


def train(name: str, seed: int, folder: Path, steps: int | None = None) -> dict:
    """Train one model into `folder`; returns what the card says of the run.

    One thread: the order of a sum, and so the weights, must not depend on the machine.
    """
    torch.set_num_threads(1)
    steps = steps or STEPS[name]
    work = HERE / "_work" / f"{name}-{seed}"
    work.mkdir(parents=True, exist_ok=True)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = make_tokenizer(name, folder)
    rows_file = work / f"rows-{steps}.npy"
    if not rows_file.exists():
        rows = make_rows(name, tokenizer, steps * BATCH, seed)
        _save_aside(lambda p: np.save(p.open("wb"), rows), rows_file)
    rows = np.load(rows_file, mmap_mode="r")
    torch.manual_seed(seed)
    model = make_model(name, tokenizer)
    optimisers = _optimisers(model)
    first, seconds, checkpoint = 0, 0.0, work / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        if saved["steps"] == steps:
            model.load_state_dict(saved["model"])
            for opt, state in zip(optimisers, saved["optimisers"], strict=True):
                opt.load_state_dict(state)
            first, seconds = saved["step"], saved["seconds"]
    start, losses = time.perf_counter() - seconds, []
    bar = tqdm(range(first, steps), desc=f"{name} seed {seed}", initial=first,
               total=steps, disable=None, mininterval=5)  # fmt: skip
    model.train()
    for step in bar:
        batch = torch.from_numpy(
            rows[step * BATCH : (step + 1) * BATCH].astype(np.int64)
        )
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in optimisers:
            for group in opt.param_groups:
                group["lr"] = PEAK_LR * learning_rate(step, steps)
            opt.step()
            opt.zero_grad()
        losses.append(loss.item())
        if (step + 1) % 100 == 0:
            line = f"step {step + 1} loss {np.mean(losses[-100:]):.4f}"
            line += f" {time.perf_counter() - start:.0f} s\n"
            with (work / "log.txt").open("a") as log:
                log.write(line)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            state = {
                "model": model.state_dict(), "step": step + 1, "steps": steps,
                "optimisers": [o.state_dict() for o in optimisers],
                "seconds": time.perf_counter() - start,
            }  # fmt: skip
            _save_aside(lambda p, s=state: torch.save(s, p), checkpoint)
            _export(model, name, tokenizer, folder)
    minutes = (time.perf_counter() - start) / 60
    tokens = steps * BATCH * ROW
    run = {"name": name, "seed": seed, "steps": steps, "tokens": tokens}
    run["minutes"] = round(minutes, 1)
    _save_aside(lambda p: p.write_text(json.dumps(run, indent=1)), work / "run.json")
    return run


def _export(model, name, tokenizer, folder: Path):
    """Write weights, configs and the checksum that `load` verifies."""
    model.generation_config = GenerationConfig(
        bos_token_id=model.config.bos_token_id,
        eos_token_id=model.config.eos_token_id,
        pad_token_id=tokenizer.convert_tokens_to_ids("<|endoftext|>"),
        do_sample=False,
    )
    model.save_pretrained(folder)
    weights = (folder / "model.safetensors").read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    (folder / "SHA256").write_text(f"{digest}  model.safetensors\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", default=list(STEPS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--out", type=Path, help="folder to write <name>/ into")
    args = parser.parse_args()
    unknown = set(args.names) - set(STEPS)
    if unknown:
        parser.error(f"unknown model {sorted(unknown)}; choose from {list(STEPS)}")
    # Seed 0 is the committed model; other seeds check that verdicts do not hang on it.
    base = args.out or (HERE if args.seed == 0 else HERE / "_work" / f"seed{args.seed}")
    if len(args.names) == 1:
        print(
            json.dumps(
                train(args.names[0], args.seed, base / args.names[0], args.steps)
            )
        )
        return
    flags = ["--seed", str(args.seed), "--out", str(base)]
    flags += ["--steps", str(args.steps)] if args.steps else []
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "models.train", name, *flags], cwd=HERE.parent
        )
        for name in args.names
    ]
    if any([run.wait() for run in runs]):
        sys.exit("training did not finish; run the same command again to resume it")


if __name__ == "__main__":
    main()
