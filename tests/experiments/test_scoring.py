"""What a model expects at each step, without the loop."""

import torch

from experiments import scoring
from helpers import generate_concepts

PROMPTS = ["The capital of France is", "2 plus 2 equals", "The baker feeds the"]


def test_predictions_are_what_the_loop_said(lm):
    trace = generate_concepts(lm, PROMPTS, 6, stop_at_eos=False)
    top, log_p = scoring.teacher_forced_logprobs(lm, PROMPTS, trace.vectors)
    assert torch.equal(top, trace.indices[..., 0].cpu())
    assert (log_p <= 0).all() and log_p.shape == (3, 6)
    other = (top + 1) % lm.embed.shape[0]
    assert (
        scoring.teacher_forced_logprobs(lm, PROMPTS, trace.vectors, other)[1] < log_p
    ).all()
