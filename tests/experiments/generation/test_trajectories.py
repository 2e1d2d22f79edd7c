"""Chains beside greedy text: agreement, floors, what the corpus can say."""

import pandas as pd
import pytest

from experiments.generation import trajectories

PROMPTS = ["The capital of France is", "2 plus 2 equals", "The baker feeds the"]


def test_chains_of_floors_differ_only_in_what_is_fed(mini):
    rows = trajectories.chain_rows(mini, PROMPTS * 4, 6)
    first = rows.assign(first=rows.ids.str[0]).groupby("prompt")["first"]
    assert (first.nunique() == 1).all()
    greedy = rows[rows.kind == "greedy"]
    assert (greedy.agreement == 1).all() and (greedy.rouge_l == 1).all()
    by_step = trajectories.agreement_by_step(rows, 6)
    assert (by_step[by_step.step == 1].share == 1).all()


def test_sayable_knows_what_the_corpus_says(mini):
    from models.corpus import covers

    rows = [(0, "right", " Paris."), (0, "wrong", " known the sea.")]
    rows.append((1, "right", " 4."))
    rows = pd.DataFrame(rows, columns=["prompt", "kind", "text"])
    rows["ids"] = [mini.tokenizer(text)["input_ids"] for text in rows.text]
    found = trajectories.sayable_share(mini, [*PROMPTS[:2], "xyzzy"], rows, covers)
    assert found.to_dict() == {"right": 1.0, "wrong": 0.0}


def test_the_parts_of_g7_lie_between_the_right_floor_and_ceiling():
    kinds = list(trajectories.chain_kinds())
    both = [  # agreement, ROUGE-L and NLL of two prompts, by kind
        ((1, 1), (1, 1), (1, 2)), ((0.5, 0.75), (0.8, 0.9), (2, 3)),
        ((0.3, 0.3), (0, 0), (9, 9)), ((0.25, 0.5), (0, 0), (9, 9)),
        ((0.1, 0.2), (0, 0), (9, 9)), ((0, 0.1), (0.2, 0.4), (4, 6)),
        ((0, 0), (0, 0), (9, 9)),
    ]  # fmt: skip
    rows = pd.DataFrame([
        {"prompt": i, "kind": kind, "agreement": a[i], "rouge_l": r[i], "nll": n[i]}
        for kind, (a, r, n) in zip(kinds, both) for i in (0, 1)
    ])  # fmt: skip
    found = {k: e.value for k, e in trajectories.chain_parts(rows).items()}
    assert found == pytest.approx({
        "agreement": 0.625, "agreement_raw": 0.375, "agreement_shuffled": 0.15,
        "agreement_random": 0.05, "agreement_random_tokens": 0,
        "rouge_l": 0.85, "rouge_l_random": 0.3,
        # 5 nats better than random weights, where greedy is 7 nats better
        "nll_score": 5 / 7,
    })  # fmt: skip


def test_frames_hold_every_model_and_prompt(mini):
    lms, chains = {"a": mini}, {"a": trajectories.chain_rows(mini, PROMPTS * 4, 6)}
    rows = trajectories.agreement_rows(chains, 6)
    assert "no clipping" not in set(rows.kind) and set(rows.model) == {"a"}
    texts = trajectories.chain_texts(lms, PROMPTS, chains)
    assert list(texts.columns) == ["model", "prompt", "greedy", "concept tokens"]
    assert list(texts.prompt) == PROMPTS
    means = trajectories.chain_means(lms, PROMPTS * 4, chains)
    assert means.loc[("a", "greedy"), "agreement"] == 1 and "sayable" not in means
    mixtures = trajectories.mixture_rows(lms, PROMPTS, 3, 2)
    assert mixtures.groupby("panel", sort=False).size().tolist() == [6, 6, 6]
