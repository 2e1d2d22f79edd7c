"""figures/architectures.csv: it has every class, and a sample gives the same again."""

import csv
import os

import pytest

from tests.tiny import tiny_model
from versions import architectures


def committed():
    with architectures.CSV.open(newline="", encoding="utf-8") as file:
        return {row["model_type"]: row for row in csv.DictReader(file)}


def test_every_causal_class_of_this_transformers_has_a_row_and_none_fails():
    rows = committed()
    classes = {kind: row["class"] for kind, row in rows.items()}
    assert classes == architectures.causal_classes()
    assert {row["result"] for row in rows.values()} == {
        "passes",
        "refused",
        "not tried",
    }
    assert all(row["reason"] for row in rows.values() if row["result"] != "passes")


@pytest.mark.parametrize("kind", ["gpt2", "llama", "bloom", "deepseek_v3", "ctrl"])
def test_a_class_does_again_what_its_row_says(kind):
    row = committed()[kind]
    assert architectures.try_class(kind) == (row["result"], row["reason"])


def test_a_model_that_differs_from_its_greedy_decoding_fails():
    model = tiny_model("gpt2")
    ids, generate = [], model.generate

    def other(*given, **how):
        ids.append(generate(*given, **how))
        return ids[-1] + 1

    model.generate = other
    assert architectures.try_model(model) == (
        "fails",
        "one-hot vectors and greedy generate differ",
    )


def test_a_class_that_ends_its_process_loses_only_its_own_row(monkeypatch):
    monkeypatch.setattr(architectures, "try_class", lambda kind: os._exit(3))
    assert architectures.try_apart("gpt2") == ("fails", "its process ended with 3")


def test_an_unknown_class_is_named(capsys):
    assert architectures.main(["no_such"]) == 2
    assert "no causal model type: no_such" in capsys.readouterr().err
