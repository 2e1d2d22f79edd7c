"""English documents as programs: a chooser picks among weighted options and says words.

    paragraph   6-20 sentences: chores, travels, capitals, sums, meanings, stories
    words       an identity list, "cat -> cat; seven -> seven."

What is a matter of chance in the world (who feeds which animal, and how often) is drawn
here, from fixed seeds. `corpus.py` runs the programs, to sample or to count.
"""

import random
import zlib
from functools import cache

from models import world as w
from models.facts import JOURNEYS, NAMES

# Reading frames and words: this share of the pairs is never trained, so that a frame is
# not asked only what it has been shown.
FRAME_HELD = 0.2
SHOTS = ("seven", "Canada", "painter", "new")  # examples of the patchscopes frame
PLAIN_SUMS = ("equals", "sum", "make", "gives")
PLAIN_CAPITALS = ("is", "called", "seat", "in")


def _draw(*key) -> random.Random:
    """A generator that depends on the key alone: the world never changes."""
    return random.Random(zlib.crc32("|".join(map(str, key)).encode()))


@cache
def held_out(*key, share: float) -> bool:
    """Whether this fact × wording (or this sentence) is kept out of training."""
    return (
        zlib.crc32("|".join(map(str, ("held out",) + key)).encode()) % 1000
        < share * 1000
    )


def _three(options, *key, far=None):
    """Three of the options with weights: the first is likeliest, .36 to .75."""
    rng = _draw(*key)
    while True:
        chosen = rng.sample(options, 3)
        if far is None or far(chosen[0], chosen[1]):
            break
    top = rng.uniform(0.36, 0.75)
    second = (1 - top) * rng.uniform(0.55, 0.85)
    second = min(second, top - 0.02)
    return chosen, (top, second, 1 - top - second)


NOUN_ENDS = {}  # noun -> (phrases, weights): how a sentence goes on after the noun
for _group, _nouns in enumerate(w.CHORES.values()):
    for _j, _noun in enumerate(_nouns):
        _n = len(w.NOUN_PHRASES)
        _p = [w.NOUN_PHRASES[(2 * _j + 3 * _group + i) % _n] for i in (0, 1)]
        _a, _stop = _draw("noun", _noun).uniform(0.5, 0.7), 0.15
        NOUN_ENDS[_noun] = (_p + [""], (_a, 1 - _a - _stop, _stop))
CITY_ENDS = {}
for _city in w.CAPITALS.values():
    _rng = _draw("city", _city)
    _a = _rng.uniform(0.55, 0.8)
    CITY_ENDS[_city] = (_rng.sample(w.CITY_PHRASES, 2), (_a, 1 - _a))


def _far(a, b):
    first = [{p.split()[0] for p in CITY_ENDS[c][0]} for c in (a, b)]
    return not first[0] & first[1]


CHORE = {(p, v): _three(n, p, v) for p in w.PEOPLE for v, n in w.CHORES.items()}
TRAVEL = {(n, v): _three(list(w.CAPITALS.values()), n, v, far=_far)
          for n in NAMES for v in JOURNEYS}  # fmt: skip
CAPITAL_WEIGHTS = {}  # country -> weights of (the city, "known for", "near the")
for _land in w.CAPITALS:
    _a = _draw("capital", _land).choice((0.5, 0.58, 0.7))
    CAPITAL_WEIGHTS[_land] = (_a, (1 - _a) * 0.6, (1 - _a) * 0.4)
THING = {c: _draw("thing", c).choice(w.COUNTRY_THINGS) for c in w.CAPITALS}
PLACE = {c: _draw("place", c).choice(w.COUNTRY_PLACES) for c in w.CAPITALS}
LAND = {city: land for land, city in w.CAPITALS.items()}


def _capital(c):
    how = c.pick(PLAIN_CAPITALS, (0.49, 0.17, 0.17, 0.17))
    lands = [x for x in w.CAPITALS if not capital_held(x, how)]
    c.say({"is": "The capital of", "called": "The capital city of",
           "seat": "The seat of government of", "in": ""}[how])  # fmt: skip
    land = c.pick(lands)
    c.say(land)
    city = w.CAPITALS[land]
    if how != "is":
        c.say({"called": "is called", "seat": "is", "in": "has its capital in"}[how])
        c.say(city + ".")
        return city
    c.say("is")
    ending = c.pick(("city", "known", "near"), CAPITAL_WEIGHTS[land])
    if ending == "known":
        c.say(f"known for its {THING[land]}.")
    elif ending == "near":
        c.say(f"near the {PLACE[land]}.")
    else:
        c.say(city)
        c.say(c.pick((".", ","), (0.4, 0.6)))
        if c.text.endswith(","):
            c.say("and many visitors come")
            c.say(c.pick(*CITY_ENDS[city]) + ".")
    return city


def capital_held(land, how):
    return how != "is" and held_out("capital", land, how, share=0.2)


def _travel(c):
    name = c.pick(NAMES)
    c.say(name)
    verb = c.pick(JOURNEYS)
    c.say(verb)
    city = c.pick(*TRAVEL[name, verb])
    c.say(city)
    c.say(c.pick(*CITY_ENDS[city]) + ".")
    return city


def _chore(c):
    c.say("The")
    person = c.pick(tuple(w.PEOPLE))
    c.say(person)
    verb = c.pick(tuple(w.CHORES))
    c.say(verb + " the")
    noun = c.pick(*CHORE[person, verb])
    c.say(noun)
    c.say(c.pick(*NOUN_ENDS[noun]) + ".")
    return noun


def number(n, style):
    return str(n) if style == "digits" else w.number_word(n)


def sum_held(a, b, how, style):
    return how != "equals" and held_out("sum", a, b, how, style, share=0.1)


def _sum(c):
    how = c.pick(PLAIN_SUMS, (0.4, 0.2, 0.2, 0.2))
    style = c.pick(("digits", "words"))
    c.say({"sum": "The sum of", "gives": "Adding"}.get(how, ""))
    a = c.pick(range(21))
    first = number(a, style)
    c.say(first if c.inside() else first.capitalize())
    c.say({"equals": "plus", "sum": "and", "make": "and", "gives": "to"}[how])
    b = c.pick([b for b in range(21) if not sum_held(a, b, how, style)])
    c.say(number(b, style))
    c.say({"sum": "is", "make": "make"}.get(how, how))
    if how == "equals":
        c.say(c.pick(("", "exactly"), (0.75, 0.25)))
    c.say(number(a + b, style) + ".")


def three_held(a, b, d):
    return held_out("three", a, b, d, share=0.3)


def _sum_of_three(c):
    """The hard task, left with headroom: a third of the facts are never seen."""
    a, b = c.pick(range(11)), c.pick(range(11))
    c.say(f"{a} plus {b} plus")
    d = c.pick([d for d in range(11) if not three_held(a, b, d)])
    c.say(f"{d} equals {a + b + d}.")


def frame_held(frame, word):
    """Whether a word is kept out of a reading frame: "list", "meaning", or a wording of
    chat. Each word stays in other frames, and the list's examples stay in the list."""
    return word not in SHOTS and held_out("frame", frame, word, share=FRAME_HELD)


LISTED = tuple(x for x in w.CONTENT_WORDS if not frame_held("list", x))
ASKED = tuple(x for x in w.CONTENT_WORDS if not frame_held("meaning", x))


def _meaning(c):
    """The completion frame for the words it may have; every word in other words."""
    if c.pick(("of", "means"), (0.7, 0.3)) == "means":
        c.say("In plain English the word")
        word = c.pick(w.CONTENT_WORDS)
        c.say(word)
        c.say(f"means {w.MEANINGS[word]}.")
        return
    c.say("The meaning of")
    word = c.pick(ASKED)
    c.say(word)
    c.say(f"in plain English is {w.MEANINGS[word]}.")


def svo_held(adj, who, verb, adj2, what):
    return held_out("svo", adj, who, verb, adj2, what, share=0.1)


def _svo(c):
    c.say("The")
    adj = c.pick((None,) + w.ADJECTIVES, (0.5,) + (0.5 / 7,) * 7)
    c.say(adj[0] if adj else "")
    who = c.pick(w.ANIMATE)
    c.say(who[0])
    verb = c.pick(w.VERBS)
    c.say(verb[0] + " the")
    adj2 = c.pick((None,) + w.ADJECTIVES, (0.5,) + (0.5 / 7,) * 7)
    c.say(adj2[0] if adj2 else "")
    key = (adj and adj[0], who[0], verb[0], adj2 and adj2[0])
    what = c.pick([x for x in w.INANIMATE if not svo_held(*key, x[0])])
    c.say(what[0] + ".")
    return what[0]


def _follow_up(c, topic):
    if topic in LAND:
        land = LAND[topic]
        if c.pick((0, 1)):
            c.say(f"{topic} is the capital of {land}.")
        else:
            c.say(f"In {topic} people love their {THING[land]}.")
    else:
        c.say(f"The {topic}")
        c.say(c.pick(w.NOUNS[topic][1:], (0.65, 0.35)) + ".")


FAMILIES = (_chore, _travel, _capital, _svo, _sum, _sum_of_three, _meaning)
SHARES = (0.21, 0.11, 0.17, 0.10, 0.30, 0.04, 0.07)


def paragraph(c):
    topic = None
    for done in range(20):
        if done >= 6 and c.pick((0, 1), (1 - 1 / (21 - done), 1 / (21 - done))):
            return
        if topic and c.pick((1, 0)):
            topic = _follow_up(c, topic)
        else:
            topic = c.pick(FAMILIES, SHARES)(c)


def words(c):
    for done in range(14):
        if done >= 5 and c.pick((0, 1), (0.8, 0.2)):
            break
        word = c.pick(LISTED)
        c.say(word)
        c.say(f"-> {word};")
    c.text = c.text.rstrip(";") + "."
