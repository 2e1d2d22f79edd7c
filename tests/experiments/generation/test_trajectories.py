"""Chains beside greedy text: agreement, floors, what the corpus can say."""

import math

import pandas as pd
import pytest
import torch

from experiments.generation import trajectories
from harness.claims import measured
from harness.judge import judge
from models.corpus import covers

PROMPTS = ["The capital of France is", "2 plus 2 equals", "The baker feeds the"]


def rows_of(lm, prompts, steps):
    chains = trajectories.run_chains(lm, prompts, steps)
    return trajectories.chain_rows(lm, prompts, chains)


def test_chains_of_floors_differ_only_in_what_is_fed(mini):
    rows = rows_of(mini, PROMPTS * 4, 6)
    first = rows.assign(first=rows.ids.str[0]).groupby("prompt")["first"]
    assert (first.nunique() == 1).all()
    greedy = rows[rows.kind == "greedy"]
    assert (greedy.agreement == 1).all() and (greedy.rouge_l == 1).all()
    by_step = trajectories.agreement_by_step(rows, 6)
    assert by_step.step.min() == 2  # step 1 is read off the prompt


def test_step_1_counts_for_nothing(mini):
    rows = rows_of(mini, PROMPTS, 2)
    for _, own in rows.groupby("prompt"):
        greedy = own[own.kind == "greedy"].ids.iloc[0]
        for ids, agreement in zip(own.ids, own.agreement):
            assert ids[0] == greedy[0] and agreement == (ids[1] == greedy[1])
    assert set(rows.template) == {
        "The capital of _ is", "_ plus _ equals", "The _ feeds the",
    }  # fmt: skip


def test_top_tokens_and_their_nll_are_the_models_own(mini):
    """Beside one pass for each prompt, which knows nothing of batches or caches."""
    chains = trajectories.run_chains(mini, PROMPTS, 5)
    rows = trajectories.chain_rows(mini, PROMPTS, chains)
    for kind, chain in chains.items():
        for b, prompt in enumerate(PROMPTS):
            start = mini.embed[torch.tensor(mini.tokenizer(prompt)["input_ids"])]
            fed = torch.cat([start, chain.trace.vectors[b]])
            top = mini.model(inputs_embeds=fed[None]).logits[0, -6:-1].argmax(-1)
            assert chain.top[b].tolist() == top.tolist(), kind
            (row,) = rows[(rows.kind == kind) & (rows.prompt == b)].itertuples()
            read = torch.cat([start, mini.embed[torch.tensor(row.ids)]])
            log_p = mini.model(inputs_embeds=read[None]).logits[0].log_softmax(-1)
            nats = [-log_p[len(start) + t - 1, i] for t, i in enumerate(row.ids)]
            assert row.nll == pytest.approx(float(sum(nats[1:])) / len(nats[1:]), 1e-4)


def test_sayable_knows_what_the_corpus_says(mini):
    def said(prompt, text):
        ids = mini.tokenizer(text)["input_ids"]
        return trajectories._sayable(mini, prompt, ids, covers)

    assert said(PROMPTS[0], " Paris.") == said(PROMPTS[1], " 4.") == 1
    assert said(PROMPTS[0], " Paris. Known the sea.") == 1  # only the first sentence
    assert said(PROMPTS[0], " known the sea.") == 0
    assert math.isnan(said("xyzzy", " Paris."))
    assert math.isnan(trajectories._sayable(mini, PROMPTS[0], [1], None))


def chain_frame(both, templates=("a", "b")):
    """A frame as chain_rows makes it, from the numbers of two prompts for each kind."""
    return pd.DataFrame([
        {"prompt": i, "kind": kind, "agreement": a[i], "rouge_l": r[i], "nll": n[i],
         "sayable": s[i], "template": templates[i]}
        for kind, (a, r, n, s) in zip(trajectories.chain_kinds(), both) for i in (0, 1)
    ])  # fmt: skip


NUMBERS = [  # agreement, ROUGE-L, NLL and sayable of two prompts, by kind
    ((1, 1), (1, 1), (1, 2), (1, 1)), ((0.5, 0.75), (0.8, 0.9), (2, 3), (1, 0)),
    ((0.3, 0.3), (0, 0), (9, 9), (0, 0)), ((0.25, 0.5), (0, 0), (9, 9), (0, 0)),
    ((0.1, 0.2), (0, 0), (9, 9), (0, 0)), ((0, 0.1), (0.2, 0.4), (4, 6), (0, 0)),
    ((0, 0), (0, 0), (9, 9), (0, 0)),
]  # fmt: skip


def test_the_parts_of_g7_lie_between_the_right_floor_and_ceiling():
    parts = trajectories.chain_parts(chain_frame(NUMBERS))
    assert {k: e.value for k, e in parts.items()} == pytest.approx({
        "agreement": 0.625, "agreement_raw": 0.375, "agreement_shuffled": 0.15,
        "agreement_random": 0.05, "agreement_random_tokens": 0,
        "rouge_l": 0.85, "rouge_l_random": 0.3,
        # 5 nats better than random weights, where greedy is 7 nats better
        "nll_score": 5 / 7,
        # greedy says what can be said twice, these chains once, random weights never
        "sayable": 0.5, "sayable_gap": -0.5, "sayable_gain": 0.5,
    })  # fmt: skip
    assert parts["agreement"].low < parts["agreement"].high
    one = trajectories.chain_parts(chain_frame(NUMBERS, "aa"))["agreement"]
    assert one.low == one.high == 0.625 and one.n == 2  # drawn as one, counted as two
    unknown = [(*row[:3], (math.nan, math.nan)) for row in NUMBERS]
    assert "sayable_gap" not in trajectories.chain_parts(chain_frame(unknown))
    partly = [(*row[:3], (row[3][0], math.nan)) for row in NUMBERS]
    assert trajectories.chain_parts(chain_frame(partly))["sayable_gap"].n == 1


def g7_verdict(rows):
    """The verdict over 60 prompts of six templates that repeat two prompts' numbers."""
    copies = [
        rows.assign(prompt=rows.prompt + 2 * i, template=str(i % 6)) for i in range(30)
    ]
    parts = trajectories.chain_parts(pd.concat(copies))
    found = [measured("G7", part, e, cell="m") for part, e in parts.items()]
    return judge("G7", found, "mini"), parts


def test_planted_writers_get_the_verdicts_they_deserve():
    greedy = NUMBERS[0]
    floor = ((0, 0), (0, 0), (8, 9), (0, 0))
    top_only = [greedy, greedy, greedy, greedy, floor, floor, floor]
    noise = [greedy, floor, floor, floor, floor, floor, floor]
    judged, parts = g7_verdict(chain_frame(top_only))
    assert judged.verdict == "reproduced" and parts["sayable_gap"].value == 0
    assert g7_verdict(chain_frame(noise))[0].verdict == "not reproduced"
    # deaf: whatever is fed, it goes on as greedy decoding does, so nothing is shown but
    # that its text can be said
    judged, parts = g7_verdict(chain_frame([greedy] * 7))
    answers = {r.clause.names[0]: r.yes for r in judged.cells[0].results}
    assert answers.pop("sayable_gap") is True and parts["nll_score"].value == 0
    assert judged.verdict == "partly" and not any(answers.values())


def test_frames_hold_every_model_and_prompt(mini):
    lms, chains = {"a": mini}, {"a": rows_of(mini, PROMPTS * 4, 6)}
    rows = trajectories.agreement_rows(chains, 6)
    assert "no clipping" not in set(rows.kind) and set(rows.model) == {"a"}
    texts = trajectories.chain_texts(lms, PROMPTS, chains)
    assert list(texts.columns) == ["model", "prompt", "greedy", "concept tokens"]
    assert list(texts.prompt) == PROMPTS
    means = trajectories.chain_means(chains)
    assert means.loc[("a", "greedy"), "agreement"] == 1 and "sayable" not in means
    mixtures = trajectories.mixture_rows(lms, PROMPTS, 3, 2)
    assert mixtures.groupby("panel", sort=False).size().tolist() == [6, 6, 6]
