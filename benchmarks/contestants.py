"""Who runs: transformers' generate, the write-up's loop as written, and ours.

    shapes        name -> a function that makes the model
    contestants   name -> (what to call, batch size) for one model

Each does the same: read a prompt and take `steps` steps, none of them stopping early.
Prompts are random ids; random weights cost what trained ones cost.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from helpers import generate_concepts, load
from helpers.checkpoints import QWEN
from helpers.models import LM

PROMPT = 8  # tokens, a plain prompt's length
QWEN_TABLE = 151936, 1536  # V and D of Qwen2.5-1.5B


def mini_qwen2(device: str) -> LM:
    """Load the embedded instruct model."""
    return load("mini-qwen2", device=device)


def gpt2_124m(device: str) -> LM:
    """Make GPT-2's shape with random weights: what the write-up ran its loop on."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return _random(GPT2LMHeadModel, GPT2Config(), device, torch.float32, "gpt2-124m")


def qwen_1_5b(device: str) -> LM:
    """Make Qwen2.5-1.5B's shape with random weights in bfloat16."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=QWEN_TABLE[0],
        hidden_size=QWEN_TABLE[1],
        intermediate_size=8960,
        num_hidden_layers=28,
        num_attention_heads=12,
        num_key_value_heads=2,
        max_position_embeddings=32768,
        tie_word_embeddings=True,
        rms_norm_eps=1e-6,
    )
    name = QWEN[0].split("/")[1]
    return _random(Qwen2ForCausalLM, config, device, torch.bfloat16, name)


def tiny(device: str) -> LM:
    """Make a model for trying the benchmark itself."""
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=1,
        n_embd=16,
        n_head=2,
        vocab_size=64,
        n_positions=64,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _random(GPT2LMHeadModel, config, device, torch.float32, "tiny")


SHAPES = {f.__name__: f for f in (mini_qwen2, gpt2_124m, qwen_1_5b, tiny)}


def _random(kind, config, device, dtype, name) -> LM:
    torch.manual_seed(0)
    with torch.device(device):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        model = kind(config).eval().requires_grad_(False)
        torch.set_default_dtype(before)
    return LM(model, name=name)


def contestants(lm: LM, steps: int, batches=(1, 8, 64), compiled=True) -> dict:
    """List who runs: name -> (function of no arguments, batch size)."""
    lm.model.generation_config.eos_token_id = None
    lm.model.generation_config.pad_token_id = 0
    draw = torch.Generator().manual_seed(0)
    size = min(lm.embed.shape[0], 1000)
    ids = torch.randint(size, (max(batches), PROMPT), generator=draw).to(lm.device)

    def generate():
        lm.model.generate(
            ids[:1],
            attention_mask=torch.ones_like(ids[:1]),
            max_new_tokens=steps,
            do_sample=False,
        )

    def ours(batch, **more):
        return lambda: generate_concepts(
            lm, ids[:batch].tolist(), steps, stop_at_eos=False, progress=False, **more
        )

    who = {"generate": (generate, 1), "appendix": (lambda: appendix(lm, ids, steps), 1)}
    who |= {f"ours x{b}" if b > 1 else "ours": (ours(b), b) for b in batches}
    if compiled:
        who["ours compiled"] = (ours(1, compile=True), 1)
    return who


@torch.no_grad()
def appendix(lm: LM, ids, steps: int) -> None:
    """Run the write-up's loop: its snippet, the whole prefix again every step."""
    model, embeddings = lm.model, lm.model.get_input_embeddings()
    prefix = embeddings(ids[:1])
    for _ in range(steps):
        logits = model(inputs_embeds=prefix).logits[0, -1]
        concept = generate_concept_token(logits, embeddings)
        prefix = torch.cat([prefix, concept.to(prefix.dtype)[None, None]], dim=1)


def generate_concept_token(logits, embeddings, temperature=0.8):
    """Mix one concept vector as the Appendix does, word for word."""
    probs = F.softmax(logits / temperature, dim=-1)
    top_k_probs, top_k_indices = torch.topk(probs, k=50)
    top_k_probs = top_k_probs**1.5  # Sharpening
    top_k_probs = top_k_probs / top_k_probs.sum()
    return sum(p * embeddings.weight[idx] for p, idx in zip(top_k_probs, top_k_indices))
