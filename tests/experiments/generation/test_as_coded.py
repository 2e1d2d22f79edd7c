"""What the original code does differently, measured."""

import pytest
import torch

from experiments.generation import as_coded, early_stopping
from helpers import (
    MixtureConfig,
    generate_concepts,
    mixture,
    next_logits,
    prompt_embeds,
)

PROMPTS = ["The capital of France is", "2 plus 2 equals", "The baker feeds the"]


def test_every_difference_is_measured_for_each_model(mini):
    plain = MixtureConfig.appendix()
    trace = generate_concepts(mini, PROMPTS, 4, plain, stop_at_eos=False)
    free = generate_concepts(mini, PROMPTS, 12, early_stopping.FREE)
    runs = early_stopping.free_runs(free, PROMPTS)
    logits = next_logits(mini, *prompt_embeds(mini, PROMPTS))
    found = as_coded.coded_measures(mini, logits, trace, runs)
    table = as_coded.coded_table({"a": found})
    assert list(table["a"]) == [found[name] for name in as_coded.DIFFERENCES]
    assert 0 < found["top_written"] < found["top_coded"] <= 1
    config = MixtureConfig.original()
    stopped = generate_concepts(mini, PROMPTS, 12, config).lengths.float()
    assert found["length"] == pytest.approx(stopped.mean())
    assert found["length_free"] == pytest.approx(free.lengths.float().mean())
    assert found["clipped_coded"] == 0  # a mixture of rows is no longer than they are


def test_entropy_is_nan_in_float16_as_soon_as_one_probability_vanishes():
    close, far = torch.tensor([[1.0, 2.0, 0.5]]), torch.tensor([[1.0, 2.0, -30.0]])
    exact = mixture.logits_entropy(close, 0.8)
    assert as_coded.half_entropy(close) == pytest.approx(exact.item(), abs=2e-3)
    assert as_coded.half_entropy(far).isnan().all()
    assert mixture.logits_entropy(far, 0.8).isfinite().all()
