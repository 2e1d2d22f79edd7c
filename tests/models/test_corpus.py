"""The corpus: sampler and exact distribution agree, and the suites are covered."""

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.prompts import FRAMES, MEANINGS, SUITES
from models import chat, corpus, world
from models.measure import ambiguous

PLAIN = ("writeup", "ambiguous", "capitals", "sums")


@pytest.mark.parametrize("suite", PLAIN)
def test_the_corpus_covers_every_plain_suite(suite):
    missing = [i.prompt for i in SUITES[suite] if not corpus.covers(i.prompt)]
    assert not missing


def test_sixty_prompts_are_ambiguous_in_a_way_that_matters():
    assert len(ambiguous()) >= 60


def test_prompts_ask_only_what_the_world_knows():
    assert dict(world.MEANINGS).items() >= MEANINGS.items()
    pairs = {word: es for word, es, _ in world.ANIMATE + world.INANIMATE}
    for item in SUITES["spanish"]:
        english = item.gold.lower().strip(".").split()
        spanish = item.prompt.lower().strip(".").split()
        assert [pairs[english[1]], pairs[english[4]]] == [spanish[1], spanish[4]]
    assert corpus.covers("The meaning of cat in plain English is")
    assert corpus.covers(FRAMES["patchscopes"].text.format(x="dog"))


def test_sampling_agrees_with_the_exact_distribution():
    """Sampled documents hit each first sentence as often as enumeration says."""
    rng, seen, total = random.Random(0), Counter(), 0
    for _ in range(20_000):
        text = corpus.sample_document(rng)
        if text.startswith("The capital of "):
            total += 1
            seen[text.split(" is ")[1].split()[0].rstrip(".,")] += 1
    words = Counter()
    for land in world.CAPITALS:
        for text, p in corpus.true_continuations(f"The capital of {land} is").items():
            words[text.split()[0].rstrip(".,")] += p / len(world.CAPITALS)
    for word, p in words.items():
        error = (p * (1 - p) / total) ** 0.5
        assert abs(seen[word] / total - p) < 4.5 * error, word


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.05, 0.6))
def test_every_prefix_of_a_document_is_covered_and_sums_to_one(seed, cut):
    text = corpus.sample_document(random.Random(seed))
    words = text.split(" ")
    prompt = " ".join(words[: max(1, int(len(words) * min(cut, 0.2)))])
    found = corpus.true_continuations(prompt)
    assert abs(sum(found.values()) - 1) < 1e-9
    assert any(text[len(prompt) :].startswith(c[: len(c) - 1]) for c in found)


def test_unknown_prompts_are_refused_by_name():
    class Tokenizer:
        eos_token_id = 0

        def __call__(self, text):
            return {"input_ids": [1]}

        def __len__(self):
            return 2

    assert not corpus.covers("Colourless green ideas")
    with pytest.raises(ValueError, match="Colourless green ideas"):
        corpus.true_next(Tokenizer(), "Colourless green ideas")


def test_held_out_sentences_never_occur():
    rng = random.Random(0)
    unseen = {chat.sentence_pair(rng, held=True) for _ in range(300)}
    english = {en for en, _ in unseen}
    spanish = {es for _, es in unseen}
    for _ in range(3000):
        text = corpus.sample_document(rng, "mini-qwen2")
        parts = {p.strip() + "." for p in text.replace("\n", ".").split(".")}
        parts |= {p.split(": ")[-1] for p in parts}
        assert not parts & (english | spanish)


def test_mini_gpt2_never_sees_spanish_or_chat():
    rng = random.Random(0)
    text = " ".join(corpus.sample_document(rng) for _ in range(2000))
    assert "<|" not in text
    assert not set(world.SPANISH) & set(text.lower().replace(".", " ").split())


def test_spanish_agrees_in_gender():
    feminine = {es for _, es, f in world.ANIMATE + world.INANIMATE if f}
    rng = random.Random(0)
    for _ in range(500):
        words = chat.sentence_pair(rng)[1].lower().strip(".").split()
        for article, noun in zip(words, words[1:], strict=False):
            if article in ("el", "la"):
                assert (noun in feminine) == (article == "la")
