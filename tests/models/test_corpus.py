"""The corpus: sampler and exact distribution agree, and the suites are covered."""

import random
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.prompts import FRAMES, MEANINGS, SUITES
from models import chat, corpus, english, world
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
        said = item.gold.lower().strip(".").split()
        spanish = item.prompt.lower().strip(".").split()
        assert [pairs[said[1]], pairs[said[4]]] == [spanish[1], spanish[4]]
    for word in world.CONTENT_WORDS:
        for frame, key in (("patchscopes", "list"), ("completion", "meaning")):
            asked = corpus.covers(FRAMES[frame].text.format(x=word))
            assert asked is not english.frame_held(key, word), (frame, word)


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
    sentences = {sentence for pair in unseen for sentence in pair}
    for _ in range(3000):
        text = corpus.sample_document(rng, "mini-qwen2")
        parts = {p.strip() + "." for p in text.replace("\n", ".").split(".")}
        parts |= {p.split(": ")[-1] for p in parts}
        assert not parts & sentences


def test_held_out_words_never_occur_in_their_frame():
    """A fifth of the words of each reading frame, none of them out of every frame."""
    words = [x for x in world.CONTENT_WORDS if x not in english.SHOTS]
    wordings = (*chat.TO_ENGLISH[:1], *chat.REPEAT, *chat.REPEAT_WORD)
    held = {
        frame: {x for x in words if english.frame_held(frame, x)}
        for frame in ("list", "meaning", *wordings)
    }
    for frame, some in held.items():
        assert 0.1 <= len(some) / len(words) <= 0.3, frame
    rng, seen = random.Random(0), set()
    for _ in range(4000):
        text = corpus.sample_document(rng, "mini-qwen2")
        seen |= {("list", x) for x, y in re.findall(r"(\w+) -> (\w+)", text) if x == y}
        found = re.findall(r"The meaning of (\w+) in plain English", text)
        seen |= {("meaning", x) for x in found}
        for wording in wordings:
            start, _, end = wording.partition("{")
            asked = re.findall(re.escape("\n" + start) + r"(\w+)[ <]", text)
            seen |= {(wording, x) for x in asked}
    for frame in ("list", "meaning", chat.REPEAT_WORD[0]):
        assert len([x for f, x in seen if f == frame]) > 20
        assert not held[frame] & {x for f, x in seen if f == frame}, frame


def test_long_answers_are_mostly_longer_than_their_prompts():
    rng = random.Random(0)
    pairs = [chat.long_pair(rng) for _ in range(200)]
    longer = [len(answer) > len(chat.chat_text(asked)) for asked, answer in pairs]
    assert 0.3 < sum(longer) / len(longer) < 1


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
