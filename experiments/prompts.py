"""What is asked of the models, as plain data: prompts, answers and frames.

    suites        a set's suites, name -> Items; all but "writeup" have at least forty
    FRAMES        name -> Frame: a text with a slot {x} for a word or a vector
    MEANINGS      word -> what it means in plain English
    prompt_suite  the prompts of notebook 01, of every kind in turn
    sample_open   items with one or several likely next words, drawn at random
    reworded      items in several wordings, such as MEANING_OF, drawn at random
    template_of   a prompt's wording without the words that vary

The set `mini` is asked about its own small world (models/world.py), which holds every
fact asked for here; a test checks that. Every other set is asked in natural language:
natural_prompts.csv, written for this repository and taken from no data set.

    writeup        the two prompts of Table 4.1
    ambiguous      the next word is one of a few, and what follows depends on which
    capitals, sums what is asked has one right answer; the tokenizers of SmolLM2 and
                   Qwen write " 38" as a space and two digits, three tokens
    meanings       a word -> what it means in plain English
    spanish        sentences -> English
    spanish_words  words -> English; natural only
    instructions   chat instructions with short answers
    long           chat instructions whose answers are longer than their prompt
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import chain, product, zip_longest
from pathlib import Path

import numpy as np

from models.facts import CAPITALS, JOURNEYS, NAMES
from models.world import number_word

NATURAL = Path(__file__).with_name("natural_prompts.csv")
SCREENING = Path(__file__).with_name("screening.csv")  # of its continuations
OPEN = 0.3, 0.8  # p_max of a next word that is open: ambiguous, but not anything
OTHER_NAMES = {"Delhi": "New Delhi", "Kyiv": "Kiev", "Bogota": "Bogotá"}
LEAST_OPEN = 2  # on so many of the models that screened a continuation


@dataclass(frozen=True)
class Item:
    """One prompt of a suite, and what counts as right (scoring.is_right).

    template: the prompt with "_" for the words that vary, as in "The _ feeds the".
    Prompts of one template are near copies: intervals draw them together.
    accepted: phrases of which an answer must hold one. required: phrases of which an
    answer must hold every one. gold: the first accepted one where that alone is right,
    else "".
    """

    id: str
    suite: str
    prompt: str
    gold: str = ""
    template: str = ""
    accepted: tuple[str, ...] = ()
    required: tuple[str, ...] = ()


@dataclass(frozen=True)
class Frame:
    """A text around a slot. `chat`: it is a user's message and needs a template."""

    name: str
    text: str
    chat: bool
    source: str


# (template, words for its gaps, right answer)
Row = tuple[str, tuple[str, ...], str]


def _suite(name: str, rows: Iterable[Row]) -> tuple[Item, ...]:
    """Items of rows, numbered."""
    return tuple(
        Item(
            f"{name}-{i:03d}",
            name,
            _fill(template, words),
            gold,
            template,
            (gold,) if gold else (),
        )
        for i, (template, words, gold) in enumerate(rows)
    )


def _fill(template: str, words: Iterable[str]) -> str:
    """A template with a word in each of its gaps."""
    return template.replace("_", "{}").format(*words)


# fmt: off
# The two prompts of Table 4.1.
CAPITAL, SUM = "The capital of _ is", "_ plus _ equals"
WRITE_UP = ((CAPITAL, ("France",), "Paris"), (SUM, ("2", "2"), "4"))
# After these the next word is one of a few nouns or cities, and what follows depends on
# which: reading the mixture, its top token, or nothing are three different outcomes.
PEOPLE = (
    "baker", "farmer", "teacher", "doctor", "painter", "sailor", "gardener", "tailor",
    "nurse", "pilot", "miller", "hunter", "singer", "writer", "driver", "soldier",
    "carpenter", "student", "lawyer", "merchant", "shepherd", "cook", "potter", "judge",
)
CHORES = ("feeds the", "paints the", "eats the", "carries the")
# Word -> what it means in plain English: the content words that concept tokens hold.
MEANINGS = {
    "cat": "a small pet that purrs", "dog": "a loyal pet that barks",
    "horse": "a large animal to ride", "cow": "a farm animal that gives milk",
    "bird": "an animal with wings", "duck": "an animal that swims and flies",
    "goat": "a farm animal with horns", "pig": "a pink farm animal",
    "house": "a building to live in", "tree": "a tall plant with leaves",
    "mountain": "a very high hill", "river": "a long stream of water",
    "moon": "the light in the night sky", "flower": "the bright part of a plant",
    "boat": "a small ship", "bridge": "a road over water",
    "bread": "a baked food from flour", "apple": "a round sweet fruit",
    "cheese": "a food made from milk", "soup": "a hot liquid food",
    "egg": "food laid by a hen", "rice": "small white grains",
    "fish": "an animal with fins", "cake": "a sweet baked treat",
    "book": "pages to read", "lamp": "a thing that gives light",
    "chair": "a seat with a back", "box": "a container with a lid",
    "basket": "a container made of reeds", "coat": "warm clothes for winter",
    "clock": "a machine that tells time", "cup": "a small thing to drink from",
    "girl": "a young female child", "boy": "a young male child",
    "woman": "a grown female person", "man": "a grown male person",
    "king": "a man who rules", "queen": "a woman who rules",
    "milk": "a white drink from cows", "car": "a machine with four wheels",
    "key": "a thing that opens a lock", "table": "a flat top on legs",
    "baker": "a person who bakes", "farmer": "a person who grows food",
    "teacher": "a person who teaches", "doctor": "a person who heals",
    "sailor": "a person who sails", "hunter": "a person who hunts",
    "singer": "a person who sings", "soldier": "a person who fights",
    "red": "the colour of blood", "small": "not big", "old": "not young",
    "white": "the colour of snow", "black": "the colour of night",
    "clean": "without dirt",
}
MEANINGS |= {city: f"the capital of {land}" for land, city in CAPITALS.items()}
# (English, Spanish) nouns with their Spanish article, and verbs.
SUBJECTS = (
    ("cat", "El gato"), ("dog", "El perro"), ("girl", "La niña"), ("boy", "El niño"),
    ("bird", "El pájaro"), ("horse", "El caballo"), ("cow", "La vaca"),
    ("woman", "La mujer"), ("man", "El hombre"), ("king", "El rey"),
    ("queen", "La reina"),
)
OBJECTS = (
    ("bread", "el pan"), ("apple", "la manzana"), ("house", "la casa"),
    ("book", "el libro"), ("river", "el río"), ("tree", "el árbol"),
    ("milk", "la leche"), ("flower", "la flor"), ("car", "el coche"),
    ("moon", "la luna"), ("mountain", "la montaña"),
)
VERBS = (
    ("sees", "ve"), ("wants", "quiere"), ("has", "tiene"), ("finds", "encuentra"),
    ("buys", "compra"), ("loves", "ama"), ("draws", "dibuja"),
)

# fmt: on


def _spanish() -> Iterator[Row]:
    """Pair all subjects with all verbs, the object moving on: Spanish, then English."""
    for i, ((who, quien), (verb, verbo)) in enumerate(product(SUBJECTS, VERBS)):
        what, que = OBJECTS[(3 * i + i // 7) % len(OBJECTS)]
        yield f"_ {verbo} _.", (quien, que), f"The {who} {verb} the {what}."


def _instructions() -> Iterator[Row]:
    """Chat instructions with their bare answers, a hundred and more."""
    spanish = tuple((_fill(verb, words), en) for verb, words, en in _spanish())
    ways = ("Please translate the following: _", "Translate to English: _")
    for i, (es, en) in enumerate(spanish[:40]):
        yield ways[i % 2], (es,), en
    for es, en in spanish[40:60]:
        yield "Translate to Spanish: _", (en,), es
    for _, en in spanish[60:76]:
        yield "Repeat: _", (en,), en
    for land, city in list(CAPITALS.items())[:24]:
        yield "What is the capital of _?", (land,), f"{city}."
    for i in range(20):
        a, b = i % 10 + 2, (7 * i) % 11 + 1
        yield "What is _ plus _?", (str(a), str(b)), f"{a + b}."


def _long_answers() -> Iterator[Row]:
    """Instructions of the mini world whose answers are longer than they are."""
    for i in range(24):
        first, last = i % 11, min(40, i % 11 + 22 + i % 8)
        numbers = " ".join(map(str, range(first, last + 1)))
        yield "Count from _ to _.", (str(first), str(last)), numbers
    for _, _, en in list(_spanish())[:24]:
        yield "Say three times: _", (en,), " ".join([en] * 3)


SUMS = [(2, 2)] + [(a, b) for a in range(1, 20, 2) for b in (1, 4, 7, 10, 13, 16, 19)]
SUITES = {
    "writeup": _suite("writeup", WRITE_UP),
    "ambiguous": _suite(
        "ambiguous",
        [(f"The _ {chore}", (who,), "") for who, chore in product(PEOPLE, CHORES)]
        + [(f"_ {journey}", (who,), "") for who, journey in product(NAMES, JOURNEYS)],
    ),
    "capitals": _suite(
        "capitals", [(CAPITAL, (land,), city) for land, city in CAPITALS.items()]
    ),
    "sums": _suite("sums", [(SUM, (str(a), str(b)), str(a + b)) for a, b in SUMS]),
    "meanings": _suite("meanings", [("_", (x,), said) for x, said in MEANINGS.items()]),
    "spanish": _suite("spanish", _spanish()),
    "instructions": _suite("instructions", _instructions()),
    "long": _suite("long", _long_answers()),
}


@cache
def _written() -> dict[str, tuple[Item, ...]]:
    """Read natural_prompts.csv, each of its suites whole.

    Its columns: suite, template, fills, accepted, required; "|" stands between several.
    A row makes a prompt of each of its fills, or one of a template without a gap.
    """
    with NATURAL.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    found: dict[str, list[Item]] = {row["suite"]: [] for row in rows}
    for row in rows:
        suite = found[row["suite"]]
        accepted, required = _listed(row["accepted"]), _listed(row["required"])
        for words in _listed(row["fills"]) or ("",):
            prompt = _fill(row["template"], (words,))
            name = f"{row['suite']}-{len(suite):03d}"
            gold = accepted[0] if accepted and not required else ""
            what = prompt, gold, row["template"], accepted, required
            suite.append(Item(name, row["suite"], *what))
    return {name: tuple(items) for name, items in found.items()}


def _listed(text: str) -> tuple[str, ...]:
    return tuple(text.split("|")) if text else ()


def natural_candidates() -> tuple[Item, ...]:
    """List all natural continuations, before any was screened."""
    return _written()["ambiguous"]


@cache
def screened_p_max() -> dict[str, list[float]]:
    """Read screening.csv: prompt -> p_max on each model (screen_prompts.py)."""
    if not SCREENING.exists():
        return {}
    with SCREENING.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        next(rows)
        return {prompt: [float(p) for p in found if p] for prompt, *found in rows}


def is_open(p_max: Sequence[float]) -> bool:
    """Whether a continuation is used: p_max (one a model) is in OPEN on LEAST_OPEN."""
    return sum(OPEN[0] <= p <= OPEN[1] for p in p_max) >= LEAST_OPEN


@cache
def _natural() -> dict[str, tuple[Item, ...]]:
    """The suites that real models are asked; facts are those of the mini world."""
    seen = screened_p_max()
    sums = (i for i in SUITES["sums"] if i.gold != "7")  # a frame has the word "seven"
    used = (i for i in natural_candidates() if is_open(seen.get(i.prompt, ())))
    return {
        "writeup": tuple(map(_other_wording, SUITES["writeup"])),
        **_written(),
        "ambiguous": tuple(used),
        "capitals": tuple(map(_other_wording, SUITES["capitals"])),
        "sums": tuple(map(_other_wording, sums)),
    }


def _other_wording(item: Item) -> Item:
    """Accept another name of a capital, and a number in words."""
    gold = item.gold
    other = number_word(int(gold)) if gold.isdigit() else OTHER_NAMES.get(gold, gold)
    return replace(item, accepted=tuple(dict.fromkeys((gold, other))))


def is_mini(set_name: str) -> bool:
    """Whether a set is one of mini models: `mini`, or "mini-" and more (mini-seed1)."""
    return set_name.split("-")[0] == "mini"


def suites(set_name: str) -> Mapping[str, tuple[Item, ...]]:
    """Choose what a set is asked: mini models their world, others natural prompts."""
    return SUITES if is_mini(set_name) else _natural()


def sample_open(
    asked: Mapping[str, tuple[Item, ...]], count: int, seed: int = 0
) -> list[Item]:
    """Draw items with one or several likely next words; all if there are fewer."""
    pool = asked["ambiguous"] + asked["capitals"]
    return random.Random(seed).sample(pool, min(count, len(pool)))


MEANING_OF = (  # wordings that the mini corpus does not have
    "The meaning of the word {} is",
    "The meaning of {} is",
    "The plain meaning of {} is",
    "In plain English {} is",
    "A {} is",
)


def reworded(
    items: Sequence[Item], wordings: Sequence[str], n: int, seed: int = 0
) -> list[Item]:
    """Draw `n` items, each in several wordings; template: the prompt they share."""
    found = [
        replace(item, prompt=way.format(item.prompt), template=item.prompt)
        for way in wordings
        for item in items
    ]
    return random.Random(seed).sample(found, min(n, len(found)))


# The write-up's frames (3.2) and two from the literature. The four words of the
# identity list belong to no suite's answers.
FRAMES = {
    "instruction": Frame(
        "instruction", "Please translate the following: {x}", True, "write-up 3.2"
    ),
    "completion": Frame(
        "completion", "The meaning of {x} in plain English is", False, "write-up 3.2"
    ),
    "direct": Frame("direct", "{x}", False, "write-up 3.2"),
    "patchscopes": Frame(
        "patchscopes",
        "seven -> seven; Canada -> Canada; painter -> painter; new -> new; {x} ->",
        False,
        "Ghandeharioun et al. 2024 (2401.06102)",
    ),
    "selfie": Frame(
        "selfie",
        "Repeat the word: {x} {x} {x} {x} {x}",
        True,
        "Chen et al. 2024 (2403.10949)",
    ),
}


@cache
def templates() -> dict[str, str]:
    """Map every suite's prompts to their templates."""
    return {
        item.prompt: item.template
        for known in (_natural(), SUITES)
        for item in chain(*known.values())
    }


def template_of(prompt: str) -> str:
    """Return a suite prompt's template: "The _ feeds the" of "The baker feeds the".

    ValueError for a prompt of no suite.
    """
    if prompt not in templates():
        raise ValueError(f"prompt {prompt!r}: expected one of a suite")
    return templates()[prompt]


def prompt_suite(asked: Mapping[str, tuple[Item, ...]], n: int) -> list[str]:
    """List the two prompts of Table 4.1, then `n` more of a set's suites.

    Every second one is ambiguous, the others are capitals and sums in turn. ValueError
    where n is more than there are.
    """
    first = [item.prompt for item in asked["writeup"]]
    pools = ("ambiguous", "capitals", "ambiguous", "sums")
    taken = {name: iter(_spread(asked[name])) for name in set(pools)}
    turns = zip_longest(*(taken[name] for name in pools))
    others = [item.prompt for item in chain.from_iterable(turns) if item]
    others = [prompt for prompt in others if prompt not in first]
    if not 1 <= n <= len(others):
        raise ValueError(f"n={n}: expected 1 to {len(others)} prompts beside the two")
    return first + others[:n]


def _spread(items: Sequence[Item]) -> list[Item]:
    """Put items in a fixed order that does not follow the suite's."""
    return [items[i] for i in np.random.default_rng(0).permutation(len(items))]
