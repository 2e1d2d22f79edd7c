"""Our lenses beside those of the tuned-lens library, on a GPT-2 that both can read."""

import pytest
import torch

from experiments.middle_layers import lenses
from experiments.middle_layers.states import read_texts, to_logits
from experiments.middle_layers.texts import held_out_texts
from tests.tiny import named

LAYERS, STEPS = range(5), 60


@pytest.fixture(scope="module")
def library():
    """The library's lenses; it is no requirement of ours."""
    return pytest.importorskip(
        "tuned_lens.nn.lenses", reason="the tuned-lens package is not installed"
    )


@pytest.fixture(scope="module")
def seen():
    """mini-gpt2 and its states (5,N,D) of notebook 07's text: to fit, and fresh."""
    lm = named("mini-gpt2")
    sizes = ((200, 0), (40, 1))
    parts = [held_out_texts(lm, "mini", count, seed=seed) for count, seed in sizes]
    return lm, *(read_texts(lm, rows, LAYERS) for rows in parts)


def divergence(lm, said, final):
    """Measure KL (nats) from the predictions of last states to a lens (N,V)."""
    truth = to_logits(lm, final).log_softmax(-1)
    return float((truth.exp() * (truth - said.log_softmax(-1))).sum(-1).mean())


def test_the_same_map_reads_the_same(library, seen):
    lm, read, _ = seen
    ours = lenses.fit_lenses(lm, read, LAYERS[:-1], steps=5)
    theirs, plain = (
        library.TunedLens.from_model(lm.model),
        library.LogitLens.from_model(lm.model),
    )
    for layer, x in zip(LAYERS[:-1], read):
        theirs[layer].weight.data = ours.weight[layer]
        theirs[layer].bias.data = ours.bias[layer]
        assert torch.allclose(
            theirs(x, layer).softmax(-1), ours.read(lm, layer, x), atol=1e-5
        )
        blank = lenses.logit_lens().read(lm, layer, x)
        assert torch.allclose(plain(x, layer).softmax(-1), blank, atol=1e-5)


def test_ours_predicts_fresh_text_as_well_as_one_of_theirs(library, seen):
    """Theirs is fitted with their way's loss, the KL, on the same states and steps."""
    lm, read, fresh = seen
    ours = lenses.fit_lenses(lm, read, LAYERS[:-1], steps=STEPS)
    theirs = library.TunedLens.from_model(lm.model)
    optimiser = torch.optim.Adam(theirs.parameters(), lr=1e-3)
    draw = torch.Generator().manual_seed(0)
    for _ in range(STEPS):
        at = torch.randint(read.shape[1], (256,), generator=draw)
        target = to_logits(lm, read[-1, at]).log_softmax(-1)
        said = [theirs(read[i, at], i).log_softmax(-1) for i in LAYERS[:-1]]
        loss = sum((target.exp() * (target - s)).sum(-1).mean() for s in said)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        for i in LAYERS[:-1]:
            x, final = fresh[i], fresh[-1]
            own = divergence(lm, to_logits(lm, ours.moved(i, x)), final)
            assert own <= divergence(lm, theirs(x, i), final), i
