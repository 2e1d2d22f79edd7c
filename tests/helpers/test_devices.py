"""The same numbers on an accelerator as on the CPU, where the machine has one."""

import pytest
import torch

from experiments.prompts import SUITES
from helpers import MixtureConfig, continue_from, generate_concepts, load, prompt_embeds
from tests.tiny import MINI, named

PROMPTS = [item.prompt for item in SUITES["capitals"][:6]]
PROMPTS += [item.prompt for item in SUITES["ambiguous"][:6]]


def accelerator():
    """The device that device="auto" would take, if it is not the CPU."""
    there = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    return next((name for name, yes in there.items() if yes), None)


def differences(name, device):
    """Largest gap in weight of the first concept tokens, and share of equal texts."""
    here, there = named(name), load(name, device=device)
    assert there.device.type == device
    traces = [
        generate_concepts(lm, PROMPTS, steps=3, config=MixtureConfig(top_k=20))
        for lm in (here, there)
    ]
    for trace in traces:
        assert all(torch.isfinite(part).all() for part in (trace.probs, trace.vectors))
    rows = []
    for trace in traces:  # by token: ranks of near-equal weights may change places
        whole = torch.zeros(len(PROMPTS), here.embed.shape[0])
        rows.append(
            whole.scatter(1, trace.indices[:, 0].cpu(), trace.probs[:, 0].cpu())
        )
    texts = [
        continue_from(lm, *prompt_embeds(lm, PROMPTS), max_new_tokens=12)
        for lm in (here, there)
    ]
    same = sum(a == b for a, b in zip(*texts)) / len(PROMPTS)
    return (rows[0] - rows[1]).abs().max().item(), same


@pytest.mark.parametrize("name", MINI)
def test_an_accelerator_agrees_with_the_cpu(name):
    device = accelerator()
    if device is None:
        pytest.skip("no CUDA or MPS device on this machine")
    gap, same = differences(name, device)
    assert gap < 5e-3 and same >= 0.9, (device, gap, same)


def test_the_comparison_is_exact_on_the_cpu_and_sees_a_wrong_kernel(monkeypatch):
    assert differences("mini-gpt2", "cpu") == (0, 1)

    def broken(*args, right=load, **kwargs):
        lm = right(*args, **kwargs)
        lm.model.transformer.ln_f.bias.data += torch.linspace(0, 1, lm.embed.shape[1])
        return lm

    monkeypatch.setitem(globals(), "load", broken)
    gap, same = differences("mini-gpt2", "cpu")
    assert gap > 5e-3, (gap, same)
