"""step_modes.py: state between steps against sequences worked out by hand."""

import pytest
import torch

from helpers import MixtureConfig, concept_decoding, generate_concepts
from helpers.batching import prompt_embeds
from helpers.decode import make_step_fn
from helpers.mixture import Weights, mix, sharpened
from helpers.step_modes import (
    closed_form_aligner,
    cold_stop,
    entropy_switch,
    fit_aligner,
    gaussian_noise,
    hidden_state,
)
from helpers.weight_rules import cipher
from tests.helpers.test_decode import IDS, Watch
from tests.tiny import named, tiny_model

THINK, END = 90, 91


@pytest.fixture(scope="module")
def tiny():
    return named("llama")


def run(switch, entropies, tops=None, probs=(0.75, 0.25)):
    """Run a switch over steps of one row -> its weights by step, as token: weight."""
    state, seen = None, []
    for t, entropy in enumerate(entropies):
        top = 5 if tops is None else tops[t]
        given = torch.tensor([probs]), torch.tensor([[top, 6]]), torch.tensor([entropy])
        (probs_, indices, _), state = switch(Weights(*given), state)
        pairs = zip(indices[0].tolist(), probs_[0].tolist())
        seen.append({i: round(p, 4) for i, p in pairs if p > 0})
    return seen


SOFT, HARD = {5: 0.75, 6: 0.25}, {5: 1.0}


def test_cold_stop_counts_a_run_then_feeds_the_end_token_then_stays_discrete():
    """Below .1 at steps 1, 3, 4, 5: the run of three is full at step 5."""
    entropies = [0.05, 0.2, 0.05, 0.05, 0.05, 0.9, 0.9]
    seen = run(cold_stop(END, threshold=0.1, run=3), entropies)
    assert seen == [SOFT] * 4 + [{END: 1.0}, HARD, HARD]


def test_cold_stop_ends_with_the_model_s_own_end_token_too():
    seen = run(cold_stop(END, 0.1, 3), [1.0] * 3, tops=[5, END, 5])
    assert seen == [SOFT, {END: 1.0}, HARD]


def test_cold_stop_counts_each_row_alone():
    switch, state = cold_stop(END, 0.1, 2), None
    for _ in range(2):
        entropy = torch.tensor([0.05, 0.5])
        given = torch.full((2, 2), 0.5), torch.tensor([[5, 6], [5, 6]]), entropy
        weights, state = switch(Weights(*given), state)
    assert weights.indices[:, 0].tolist() == [END, 5]
    assert weights.probs.tolist() == [[1, 0], [0.5, 0.5]]
    assert [x.tolist() for x in state] == [[2, 0], [True, False]]


def test_entropy_switch_follows_its_reference_and_dwell():
    """Reference 1; .5 turns discrete (reference .5); .8 is above, too early, then not.

    The step that turns discrete has .7 of its token and .3 of END; that which turns
    soft again has .5 of the mixture and .5 of THINK; then .7 < .8 turns discrete.
    """
    switch = entropy_switch(THINK, END, dwell=2, soft_share=0.5, top_share=0.7)
    seen = run(switch, [1.0, 1.2, 0.5, 0.8, 0.8, 0.9, 0.7])
    turned = {5: 0.7, END: 0.3}
    back = {5: 0.375, 6: 0.125, THINK: 0.5}
    assert seen == [SOFT, SOFT, turned, HARD, back, SOFT, turned]


def test_entropy_switch_stays_discrete_after_the_end_token():
    switch = entropy_switch(THINK, END, dwell=1)
    seen = run(switch, [1.0, 2.0, 0.5, 3.0], tops=[5, END, 5, 5])
    assert seen[0] == SOFT and seen[1] == {END: 1.0} and seen[3] == HARD


def test_entropy_switch_mixes_its_first_step_and_lets_shares_grow():
    """A tenth of the line break first; at step 2 of 4 top_share is half way to 1."""
    switch = entropy_switch(THINK, END, top_share=0.6, steps=4, first_id=7)
    seen = run(switch, [1.0, 1.0, 0.5])
    assert seen == [{5: 0.675, 6: 0.225, 7: 0.1}, SOFT, {5: 0.8, END: 0.2}]


def test_entropy_switch_is_led_to_an_end_beyond_its_limit():
    """Limit 1. Switches to discrete at steps 1, 3 and 5 (the entropy falls), back at 2
    and 4. The first and second are at and within twice the limit: END next; the third
    is beyond: both final tokens next. What is forced is fed alone, soft step or not.
    """
    entropies = [1.0, 0.5, 0.9, 0.4, 0.8, 0.3, 0.2, 0.2, 0.2]
    switch = entropy_switch(THINK, END, 1, top_share=1.0, limit=1, final_ids=(70, 71))
    forced, ended = {END: 1.0}, [{70: 1.0}, {71: 1.0}, HARD]
    seen = run(switch, entropies)
    assert seen == [SOFT, HARD, forced, HARD, forced, HARD, *ended]
    wide = entropy_switch(THINK, END, 1, top_share=1.0, limit=3)
    seen = run(wide, entropies)
    assert seen == [SOFT, HARD, SOFT, HARD, SOFT, HARD, forced, HARD, HARD]


def test_a_switch_acts_in_the_loop_and_in_generate(tiny):
    """A threshold above every entropy: the third step feeds END, then all is greedy."""
    end = 40
    switch = cold_stop(end, threshold=100.0, run=3)
    trace = generate_concepts(tiny, IDS, 6, switch=switch, stop_at_eos=False)
    assert trace.indices[:, 2, 0].tolist() == [end] * 3
    assert torch.equal(trace.vectors[:, 2], tiny.embed[[end] * 3])
    assert trace.mixed.tolist() == [[True] * 2 + [False] * 4] * 3
    again = generate_concepts(tiny, IDS, 6, switch=switch, stop_at_eos=False)
    assert torch.equal(trace.vectors, again.vectors), "no state is left over"
    plugin = concept_decoding(switch=switch)
    ids = torch.tensor([IDS[0]])
    how = {"max_new_tokens": 6, "pad_token_id": 0, "eos_token_id": None}
    out = tiny.model.generate(ids, custom_generate=plugin, **how)
    assert out[0, len(IDS[0]) :].tolist() == trace.indices[0, :, 0].tolist()


def test_raw_hidden_states_are_what_the_logits_come_from(tiny):
    """Each vector fed is the last state that the model returns for what came before."""
    feed = hidden_state(tiny, norm="none")
    trace = generate_concepts(tiny, IDS[:1], 3, feedback=feed, stop_at_eos=False)
    prefix = tiny.embed[torch.tensor(IDS[:1])]
    for t in range(3):
        out = tiny.model(inputs_embeds=prefix, output_hidden_states=True)
        vector = out.hidden_states[-1][:, -1]
        assert torch.allclose(trace.vectors[:, t], vector, atol=1e-4)
        logits = tiny.model.get_output_embeddings()(vector)
        assert torch.allclose(logits, out.logits[:, -1], atol=1e-4)
        prefix = torch.cat([prefix, vector[:, None]], dim=1)


def test_matched_hidden_states_have_the_mean_norm(tiny):
    feed = hidden_state(tiny, 2 * torch.eye(32))
    vectors = generate_concepts(tiny, IDS, 3, feedback=feed, stop_at_eos=False).vectors
    mean = tiny.embed.norm(dim=-1).mean()
    assert torch.allclose(vectors.norm(dim=-1), mean.expand(3, 3), rtol=1e-4)


def test_the_closed_form_is_the_identity_where_embeddings_are_tied(tiny):
    """So the realignment does nothing to such models; untied, it is Wo^+ Wi."""
    assert torch.allclose(closed_form_aligner(tiny), torch.eye(32), atol=1e-4)
    untied = type(tiny)(tiny_model("llama", tie_word_embeddings=False))
    aligner = closed_form_aligner(untied)
    output = untied.model.get_output_embeddings().weight
    expected = torch.linalg.pinv(output) @ untied.embed
    assert torch.allclose(aligner, expected, atol=1e-3)
    assert not torch.allclose(aligner, torch.eye(32), atol=0.1)


def test_fitted_aligner_is_the_least_squares_map(tiny):
    """Its residual is orthogonal to the states; no other map has a smaller one."""
    words = [f"w{(7 * i + j * j) % 96}" for j in range(12) for i in range(30)]
    texts = [" ".join(words[i : i + 30]) for i in range(0, 360, 30)]
    aligner = fit_aligner(tiny, texts)
    x, y = [], []
    for text in texts:
        ids = torch.tensor([tiny.tokenizer(text)["input_ids"]])
        out = tiny.model(ids, output_hidden_states=True)
        x.append(out.hidden_states[-1][0, :-1])
        y.append(tiny.embed[ids[0, 1:]])
    x, y = torch.cat(x), torch.cat(y)
    residual = y - x @ aligner
    assert (x.T @ residual).abs().max() < 1e-2 * (x.T @ y).abs().max()
    assert residual.norm() < (y - x).norm()


def test_gaussian_noise_has_its_scale_and_follows_its_seed(tiny):
    """sigma 2 of embeddings with root mean square r: standard deviation 2 r."""
    rms = tiny.embed.square().mean().sqrt().item()
    zero = torch.zeros(4000, 32)
    drawn = gaussian_noise(tiny, 3, 2.0)(zero, zero)
    assert drawn.std().item() == pytest.approx(2 * rms, rel=0.02)
    assert torch.equal(drawn, gaussian_noise(tiny, 3, 2.0)(zero, zero))
    assert not torch.equal(drawn, gaussian_noise(tiny, 4, 2.0)(zero, zero))
    assert torch.equal(gaussian_noise(tiny, 3, 0.0)(zero, zero), zero)


MODES = {
    "cold_stop": lambda lm: {"switch": cold_stop(END, 1.0, 2)},
    "entropy_switch": lambda lm: {"switch": entropy_switch(THINK, END, 1, steps=9)},
    "limit": lambda lm: {"switch": entropy_switch(THINK, END, 1, limit=1)},
    "hidden_state": lambda lm: {"feedback": hidden_state(lm, torch.eye(32))},
    "gaussian_noise": lambda lm: {"feedback": gaussian_noise(lm)},
}


@pytest.mark.parametrize("name", MODES)
@pytest.mark.parametrize("ids", [IDS, IDS[:1]], ids=["padded", "alone"])
def test_no_mode_waits_for_the_device_nor_uses_float64(tiny, name, ids):
    embeds, mask = prompt_embeds(tiny, ids)
    mask = None if bool(mask.all()) else mask
    settings = 4, MixtureConfig(), cipher(), False, None, None
    step = make_step_fn(tiny, embeds, mask, *settings, **MODES[name](tiny))
    with torch.no_grad(), Watch() as watch:
        for _ in range(4):
            embeds = step(embeds)[3][:, None]
    assert watch.found == []


@pytest.mark.parametrize("name", MODES)
def test_a_mode_cannot_be_compiled(tiny, name):
    with pytest.raises(ValueError, match="no switch or feedback"):
        generate_concepts(tiny, IDS, compile=True, **MODES[name](tiny))


def test_a_batch_gives_each_row_what_it_gets_alone(tiny):
    switch = entropy_switch(THINK, END, dwell=1)
    both = {"switch": switch, "feedback": hidden_state(tiny), "stop_at_eos": False}
    for how in ({"switch": switch, "stop_at_eos": False}, both):
        together = generate_concepts(tiny, IDS, 8, **how)
        for row, ids in enumerate(IDS):
            alone = generate_concepts(tiny, [ids], 8, **how)
            assert torch.allclose(together.vectors[row], alone.vectors[0], atol=1e-3)


def test_the_column_a_switch_adds_is_mixed_in(tiny):
    """The vector fed is the sum over all columns of the trace."""
    switch = entropy_switch(THINK, END, first_id=7)
    config = MixtureConfig.raw()
    trace = generate_concepts(
        tiny, IDS, 1, config, weight_rule=sharpened, switch=switch
    )
    assert trace.probs.shape[-1] == 51 and trace.indices[0, 0, -1] == 7
    mixed = mix(trace.probs, trace.indices, tiny.embed)
    assert torch.allclose(mixed, trace.vectors, atol=1e-5)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda lm: cold_stop(1, threshold=-1), "threshold must be a finite number"),
        (lambda lm: cold_stop(1, run=0), "run must be a whole number of at least 1"),
        (lambda lm: entropy_switch(1, 2, dwell=0), "dwell must be a whole number"),
        (lambda lm: entropy_switch(1, 2, limit=0), "limit must be a whole number"),
        (lambda lm: entropy_switch(1, 2, top_share=2.0), "top_share must be at most 1"),
        (lambda lm: hidden_state(lm, norm="all"), "norm must be one of none, mean"),
        (lambda lm: hidden_state(lm, torch.eye(3)), r"aligner must be \(32,32\)"),
        (lambda lm: gaussian_noise(lm, sigma=-1.0), "sigma must be a finite number"),
    ],
)
def test_bad_settings_are_named_when_the_mode_is_made(tiny, make, says):
    with pytest.raises(ValueError, match=says):
        make(tiny)
