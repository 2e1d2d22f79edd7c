"""What carries over between steps: when a row stops mixing, and what else is fed.

    cold_stop, entropy_switch       a switch: weights, state -> weights, state
    hidden_state, gaussian_noise    a feedback: concept, hidden state -> vector

Both are settings of the loop: generate_concepts(..., switch=..., feedback=...). A
switch acts on the weights of any rule; its state is None before the first step, then
tensors with one entry a row. A feedback acts last, on the vector that would be fed
(B,D), with the last layer's hidden state (B,D) beside it, after the final norm.
Nothing in them waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from .mixture import (
    Weights,
    at_least_float32,
    check_choice,
    check_positive_int,
    check_real,
    check_share,
    describe,
)
from .weight_rules import _first_only

if TYPE_CHECKING:
    from .models import LM

Switch: TypeAlias = Callable[[Weights, Any], tuple[Weights, Any]]
Feedback: TypeAlias = Callable[[Tensor, Tensor], Tensor]


def cold_stop(end_id: int, threshold: float = 0.01, run: int = 256) -> Switch:
    """End soft thinking: after `run` steps in a row of entropy below `threshold` nats.

    That step's token becomes end_id, one-hot, and later ones are the top token alone;
    so too once end_id is the top token by itself. The entropy is the trace's, of the
    full softmax at the config's entropy_temperature.
    Source: Soft Thinking (2505.15778; UCSB-AI/Soft-Thinking@b97407c), whose entropy is
    that at its own temperature, 0.6.
    """
    check_real("threshold", threshold, zero=True)
    check_positive_int("run", run)

    def switch(weights: Weights, state: Any) -> tuple[Weights, Any]:
        probs, indices, entropy = weights
        if state is None:
            state = torch.zeros_like(indices[:, 0]), torch.zeros_like(entropy).bool()
        cold, ended = state
        cold = torch.where(entropy < threshold, cold + 1, 0)
        stop = (cold >= run) & ~ended
        top = torch.where(stop, end_id, indices[:, 0])
        ended = ended | (top == end_id)
        probs = torch.where(ended[:, None], _first_only(probs), probs)
        indices = torch.cat([top[:, None], indices[:, 1:]], dim=1)
        return Weights(probs, indices, entropy), (cold, ended)

    return switch


def entropy_switch(
    think_id: int,
    end_id: int,
    dwell: int = 512,
    soft_share: float = 1.0,
    top_share: float = 0.7,
    steps: int | None = None,
    first_id: int | None = None,
    limit: int | None = None,
    final_ids: Sequence[int] = (),
) -> Switch:
    """Switch between mixture and top token by entropy against a reference.

    Starts soft; the reference is the first step's entropy. Soft to discrete when the
    entropy falls below it; back when it rises above and `dwell` steps have gone by
    since the last switch; each switch sets the reference to its entropy. Once the top
    token is end_id, the row stays discrete. The step that turns soft feeds soft_share
    of the mixture and the rest of think_id's embedding, the one that turns discrete
    top_share of the top token and the rest of end_id's; with `steps` both shares grow
    to 1 over so many. first_id has a tenth of the first step.
    A last column, not sorted, holds what these tokens add.
    limit: from so many switches to discrete on, each one feeds end_id alone in the next
    step; from the first beyond twice as many on, final_ids (by default end_id) in the
    next ones. A token so fed does not keep the row discrete.
    Source: SwiReasoning (2510.05069; sdc17/SwiReasoning@7f3b278), with `cipher()` and
    temperature 1; its line break is first_id, its max_switch_count limit, final_ids
    "</think>\\n\\nThe final answer is". Left out are its list of tokens that are never
    mixed, and that it ends 32 tokens after final_ids.
    """
    check_positive_int("dwell", dwell)
    if limit is not None:
        check_positive_int("limit", limit)
    words = [end_id], list(final_ids) or [end_id]
    longest = max(map(len, words))
    forced_ids = [row + [-1] * (longest + 1 - len(row)) for row in words]
    check_share("soft_share", soft_share)
    check_share("top_share", top_share)

    def switch(weights: Weights, state: Any) -> tuple[Weights, Any]:
        probs, indices, entropy = weights
        top, no = indices[:, 0], torch.zeros_like(entropy, dtype=torch.bool)
        # before the first step: soft, and a reference that cannot be crossed by it
        zero, table = torch.zeros_like(top), None
        start = no, no, zero - 1, entropy, -1, (zero, zero, zero + longest, table)
        discrete, locked, stayed, reference, step, queue = state or start
        count, final, place, table = queue
        if table is None:
            table = torch.tensor(forced_ids, device=top.device)
        stayed, step = stayed + 1, step + 1
        locked = locked | (top == end_id)
        word = table[final, place]  # -1: none is forced
        top = torch.where(word < 0, top, word)
        place = (place + 1).clamp_max(longest)
        to_top = ~discrete & (entropy < reference)
        to_soft = discrete & (entropy > reference) & (stayed >= dwell) & ~locked
        discrete, turned = (discrete | to_top) & ~to_soft, to_top | to_soft
        stayed = torch.where(turned, 0, stayed)
        reference = torch.where(turned, entropy, reference)
        if limit is not None:
            count = count + to_top
            place = torch.where(to_top & (count >= limit), 0, place)
            final = torch.where(to_top, (count > 2 * limit).long(), final)
        state = discrete, locked, stayed, reference, step, (count, final, place, table)

        one, done = discrete | locked | (word >= 0), (step / steps if steps else 0.0)
        share, added = torch.ones_like(entropy), torch.where(to_top, end_id, think_id)
        if step == 0 and first_id is not None:
            share, added = torch.where(one, 1.0, 0.9), torch.full_like(top, first_id)
        share = torch.where(to_soft, soft_share + (1 - soft_share) * done, share)
        share = torch.where(to_top, top_share + (1 - top_share) * done, share)
        share = share[:, None].to(probs.dtype)
        probs = torch.where(one[:, None], _first_only(probs), probs) * share
        probs = torch.cat([probs, 1 - share], dim=1)
        indices = torch.cat([top[:, None], indices[:, 1:], added[:, None]], dim=1)
        return Weights(probs, indices, entropy), state

    return switch


def hidden_state(lm: LM, aligner: Tensor | None = None, norm: str = "mean") -> Feedback:
    """Feed the last hidden state in place of the concept: h, or h @ aligner.

    norm: "none" leaves it as it is, "mean" scales it to the mean norm of the
    embeddings. aligner (D,D): of `closed_form_aligner` or `fit_aligner`.
    Source: COCONUT (2412.06769; facebookresearch/coconut@27273cb), norm "none";
    LatentMAS (Gen-Verse/LatentMAS@1430ad6), "mean", with and without the first aligner.
    """
    check_choice("norm", norm, ("none", "mean"))
    width = lm.embed.shape[1]
    if aligner is not None and tuple(aligner.shape) != (width, width):
        raise ValueError(f"aligner must be ({width},{width}), not {describe(aligner)}")
    target = at_least_float32(lm.embed).norm(dim=-1).mean()

    def feed(concept: Tensor, hidden: Tensor) -> Tensor:
        x = at_least_float32(hidden)
        if aligner is not None:
            x = x @ aligner.to(x)
        if norm == "mean":
            x = x * (target / x.norm(dim=-1, keepdim=True).clamp_min(1e-6))
        return x.to(concept.dtype)

    return feed


def gaussian_noise(lm: LM, seed: int = 0, sigma: float = 1.0) -> Feedback:
    """Add normal noise of sigma times the embeddings' root mean square to the concept.

    Drawn on the CPU: the same for a seed on every device. Source: Butt et al.
    (2509.19170).
    """
    check_real("sigma", sigma, zero=True)
    generator = torch.Generator().manual_seed(seed)
    scale = sigma * at_least_float32(lm.embed).square().mean().sqrt()

    def feed(concept: Tensor, hidden: Tensor) -> Tensor:
        noise = torch.randn(concept.shape, generator=generator)
        noise = noise.to(concept.device, non_blocking=True)
        return concept + (scale * noise).to(concept.dtype)

    return feed


def closed_form_aligner(lm: LM, ridge: float = 1e-5) -> Tensor:
    """Solve (Wo'Wo + ridge I) A = Wo'Wi: from the output to the input embeddings.

    -> (D,D) float32. The identity, but for the ridge, where the two are tied.
    Source: LatentMAS (Gen-Verse/LatentMAS@1430ad6).
    """
    output = lm.model.get_output_embeddings().weight.detach().double()
    gram = output.T @ output
    ridged = gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    return torch.linalg.solve(ridged, output.T @ lm.embed.double()).float()


@torch.no_grad()
def fit_aligner(lm: LM, texts: Sequence[str]) -> Tensor:
    """Fit A (D,D) by least squares: hidden state at t @ A = embedding of token t + 1.

    The write-up's "Method 2", which it dropped. texts: read one at a time. Fitted in
    float64 on the CPU; where tokens are fewer than D, of least norm.
    """
    hidden, following = [], []
    for text in texts:
        ids = torch.tensor([lm.tokenizer(text)["input_ids"]], device=lm.device)
        out = lm.model(input_ids=ids, output_hidden_states=True)
        hidden.append(out.hidden_states[-1][0, :-1].cpu().double())
        following.append(lm.embed[ids[0, 1:]].cpu().double())
    x, y = torch.cat(hidden), torch.cat(following)
    return torch.linalg.lstsq(x, y, driver="gelsd").solution.float().to(lm.device)
