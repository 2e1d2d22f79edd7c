"""What is committed in models/learned/, and how `make learn` makes it."""

import sys

import pandas as pd
import pytest
import torch

from experiments.prompts import SUITES, sample_open
from experiments.trained_reading import __main__ as make_learn
from experiments.trained_reading import exploring, learned, reader, reading, thinking
from experiments.trained_reading.signed_sums import split
from helpers.models import load


def test_committed_thinkers_give_the_committed_answers():
    _, held_out = split()
    rows = learned.widths()
    rows = rows[(rows.width == thinking.WIDTH) & (rows.seed == 0)]
    assert set(rows.kind) == {"mixture", "token"}
    models = learned.thinkers(0)
    assert set(models) == set(thinking.KINDS)
    for row in rows.itertuples():
        said = exploring.answers(models[row.kind], held_out, row.way)
        share = float((said == held_out.answer).double().mean())
        assert share == pytest.approx(row.value, abs=0.005)


def test_committed_readers_read_what_is_committed():
    lm, items = load("mini-gpt2", "cpu"), sample_open(SUITES, 24)
    for fold in reader.FOLDS:
        found = reading.reading_rows(reader.merge(lm, learned.update(fold)), items)
        own = [reading.fold_of(p) != fold for p in found.prompt]
        for trained, kept in ((own, True), ([not x for x in own], False)):
            asked = found[trained]
            rows = reading.trained_rows(asked.prompt, "reader", 0, own=kept)
            for column in ("mixture", "top", "flat"):
                expected = pytest.approx(rows[column].tolist(), abs=1e-3)
                assert asked[column].tolist() == expected


def test_every_training_is_there():
    jobs = make_learn.THINKERS + make_learn.READERS + make_learn.SEARCHERS
    assert {*learned.costs().job} == {"-".join(map(str, job)) for job in jobs}
    rows = learned.readings()
    kinds = set(zip(rows.kind, rows.seed, rows.fold))
    assert kinds == {(k, seed, fold) for k, fold, seed in make_learn.READERS}
    for which in learned.WEIGHTS:
        assert all(x.isfinite().all() for x in learned._weights(which).values())


@pytest.fixture
def three_jobs(tmp_path, monkeypatch):
    """Three jobs that train nothing; the second is cut off the first time."""
    done = []

    def learn(kind, *what):
        done.append(kind)
        if done == ["mixture", "reader"]:
            raise KeyboardInterrupt
        return {"x": torch.ones(2)}, {"rows": [{"kind": kind}]}

    monkeypatch.setattr(make_learn, "ROOT", tmp_path)
    monkeypatch.setattr(make_learn, "WORK", tmp_path / "work")
    monkeypatch.setattr(learned, "FOLDER", tmp_path / "learned")
    monkeypatch.setattr(make_learn, "THINKERS", [("mixture", thinking.WIDTH, 2)])
    monkeypatch.setattr(make_learn, "SEARCHERS", [])
    jobs = [("reader", "chores", 0), ("reader", "chores", 1)]
    monkeypatch.setattr(make_learn, "READERS", jobs)
    for name in ("learn_thinker", "learn_reader"):
        monkeypatch.setattr(make_learn, name, learn)
    monkeypatch.setattr(sys, "argv", ["learn"])
    learned._table.cache_clear()
    yield done
    learned._table.cache_clear()
    learned._weights.cache_clear()


def test_a_killed_training_goes_on_where_it_was(three_jobs, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        make_learn.main()
    assert not (tmp_path / "learned").exists()
    make_learn.main()
    assert three_jobs == ["mixture", "reader", "reader", "reader"]
    kept = {path.name for path in (tmp_path / "learned").iterdir()}
    weights = {"thinkers.safetensors", "readers.safetensors"}
    assert kept == weights | {"rows.csv", "costs.csv"}
    assert list(learned._table("rows").kind) == ["mixture", "reader", "reader"]
    learned._weights.cache_clear()
    assert list(learned._weights("readers")) == ["reader-chores-0/x"]  # seed 1 is not
    assert not list((tmp_path / "work").iterdir())
    make_learn.main()  # all of it again
    assert len(three_jobs) == 7
    sys.argv.append("reader")  # those alone: what the other jobs left is kept
    make_learn.main()
    assert (
        len(three_jobs) == 9 and len(pd.read_csv(tmp_path / "learned/costs.csv")) == 3
    )
    assert {path.name for path in (tmp_path / "learned").iterdir()} == kept


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="reader-nowhere-0: no such model"):
        learned.update("nowhere")
    monkeypatch.setattr(learned, "FOLDER", tmp_path)
    learned._table.cache_clear()
    with pytest.raises(FileNotFoundError, match="run make learn"):
        learned.curve()
