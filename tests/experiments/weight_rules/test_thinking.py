"""W6, W7 and latent steps: by hand, on planted answers, and on a mini model."""

import pandas as pd
import pytest
import torch

from experiments.weight_rules import diversity, latent, questions, stops
from experiments.weight_rules.diversity import GREEDY, MATCHED, NOISY
from harness import claims, judge
from helpers.batching import prompt_embeds
from helpers.decode import ConceptTrace, continue_from
from helpers.models import load

WORDS = [f"word {i % 40}" for i in range(160)]


@pytest.fixture(scope="module")
def lm():
    return load("mini-qwen2", device="cpu")


def verdict(claim, parts):
    rows = [claims.measured(claim, name, e, cell="x") for name, e in parts.items()]
    return judge.judge(claim, rows, "mini").verdict


def test_gumbel_noise_strays_as_sampling_from_the_same_weights_does():
    """Its heaviest token is a draw from them, so the temperature is its own, 0.6.

    Dirichlet noise spares the likeliest token, so that it needs a lower one.
    """
    logits = 2 * torch.randn(400, 30, generator=torch.Generator().manual_seed(0))
    assert diversity.matched_temperature(logits, "Gumbel") == pytest.approx(
        0.6, abs=0.02
    )
    assert 0.2 < diversity.matched_temperature(logits, "Dirichlet") < 0.55


def test_pairs_of_words_are_counted_over_all_texts():
    """a b, b c; a b, b d: three different pairs of four."""
    assert diversity.distinct_pairs(["a b c", "A b, d"]) == 0.75
    assert diversity.distinct_pairs(["a", ""]) == 0.0


def planted_texts(own, drawn, distinct=0.8):
    """Rows of W6 where the shares `own` and `drawn` of the questions are answered."""
    rows = []
    shares = {GREEDY: (0.2, 1.0)}
    for how in NOISY:
        shares |= {how: (own, distinct), MATCHED.format(how): (drawn, 0.7)}
    for how, (share, pairs) in shares.items():
        for i, word in enumerate(WORDS):
            hit = float(i % 20 < 20 * share)
            row = {"how": how, "temperature": 0.6, "template": word, "right": hit}
            rows.append(row | {"any": hit, "distinct": pairs})
    return pd.DataFrame(rows)


def test_w6_tells_noise_that_helps_from_noise_that_is_sampling():
    more = diversity.diversity_parts(planted_texts(0.9, 0.5))["Gumbel"]
    assert more["more_pass"].value == pytest.approx(0.4)
    assert verdict("W6", more) == "reproduced"
    same = diversity.diversity_parts(planted_texts(0.5, 0.5, 0.7))["Gumbel"]
    assert verdict("W6", same) == "not reproduced"
    idle = diversity.diversity_parts(planted_texts(0.9, 0.2))["Gumbel"]
    assert verdict("W6", idle) == "not tested"  # sampling wins nothing over greedy


def planted_answers(mixed, cut, both):
    """Rows of W7: plain thinking is right on .2 of the questions."""
    shares = dict(zip((*stops.WAYS, stops.DIRECT), (0.2, mixed, cut, both, 0.2)))
    columns = {
        way: [float(i % 20 < 20 * share) for i in range(len(WORDS))]
        for way, share in shares.items()
    }
    return pd.DataFrame({"template": WORDS, "stopped": 1.0} | columns)


def test_w7_tells_the_mixture_s_gain_from_the_stop_s():
    mixture = stops.stop_parts(planted_answers(0.8, 0.2, 0.8))
    assert verdict("W7", mixture) == "reproduced"
    stop = stops.stop_parts(planted_answers(0.2, 0.8, 0.8))
    assert verdict("W7", stop) == "not reproduced"
    assert (
        verdict("W7", stops.stop_parts(planted_answers(0.2, 0.2, 0.2))) == "not tested"
    )
    effects = stops.stop_parts(planted_answers(0.5, 0.3, 0.8))
    values = {name: part.value for name, part in effects.items()}
    assert values["mixture"] == pytest.approx(0.4)  # (.3 + .5) / 2
    assert values["stop"] == pytest.approx(0.2)  # (.1 + .3) / 2
    assert values["mixture"] + values["stop"] == pytest.approx(values["gain"])


def test_thinking_is_cut_before_the_step_that_cold_stop_ends():
    """Entropies below .1 at step 2; never; only past the end of the row."""
    entropy = torch.tensor([[0.5, 0.05, 0.01], [0.5, 0.5, 0.5], [0.5, 0.5, 0.0]])
    shape = torch.full((3, 3, 2), 0.5), torch.ones(3, 3, 2, dtype=torch.long)
    lengths = torch.tensor([3, 3, 2])
    trace = ConceptTrace(*shape, entropy, torch.zeros(3, 3, 4), entropy > 0, lengths)
    assert stops.stop_steps(trace) == [1, 3, 2]


def test_a_stop_at_the_first_step_leaves_what_no_thinking_leaves(lm, monkeypatch):
    """Whatever would have been thought; that is also the control of latent steps."""
    asked = questions.questions("mini", 8)
    monkeypatch.setattr(stops, "THRESHOLD", 1e9)
    rows = stops.stop_rows(lm, asked, "mini", steps=2)
    prompts = [item.prompt for item in asked]
    again = [f"{prompt}\n{prompt}" for prompt in prompts]
    texts = continue_from(
        lm, [prompt_embeds(lm, text)[0][0] for text in again], max_new_tokens=8
    )
    right = [questions.is_correct(t, i, "mini") for t, i in zip(texts, asked)]
    assert rows["greedy, stop"].tolist() == rows["mixture, stop"].tolist() == right
    assert rows.stopped.tolist() == [1.0] * 8
    steps = latent.latent_rows(lm, asked, "mini", steps=(1,))
    assert steps[steps.fed == latent.NONE].right.tolist() == right
    assert set(steps.fed) == {latent.NONE, "raw", "mean norm", "aligned"}


def test_texts_of_all_ways_are_written_and_greedy_s_are_generate_s(lm):
    asked = questions.questions("mini", 6)
    rows = diversity.diversity_rows(lm, asked, "mini")
    assert len(rows) == 6 * (1 + 2 * len(NOISY))
    greedy = rows[rows.how == GREEDY].texts.str[0].tolist()
    plain = [prompt_embeds(lm, item.prompt)[0][0] for item in asked]
    assert greedy == continue_from(lm, plain, max_new_tokens=diversity.STEPS)
    assert set(rows[rows.how != GREEDY].texts.str.len()) == {diversity.DRAWS}
    shares = diversity.diversity_shares({"m": rows})
    assert not ((shares.how == GREEDY) & (shares.measure != "any right")).any()
