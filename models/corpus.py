"""The corpus the mini models are trained on, and its exact next-token distribution.

A document is written by a small program that makes weighted choices (`pick`) and writes
words (`say`). Run with a random chooser the program samples a document; run with `_Walk`,
which tries every choice that agrees with a prompt, the same program gives the exact
probability of every continuation. So the sampler cannot disagree with the distribution.

    paragraph  6-20 sentences: chores, travels, capitals, sums, meanings, simple stories
    words      an identity list, "cat -> cat; seven -> seven"
    parrafo    a Spanish paragraph                       (mini-qwen2 only)
    chat       one ChatML instruction and its answer     (mini-qwen2 only)
"""

import random
import re
import zlib
from functools import lru_cache

import torch

from models import world as w

# Share of each kind of document, by model. Paragraphs and word lists keep one ratio in
# both, so that one distribution over plain English continuations is true of both.
KINDS = {
    "mini-gpt2": {"paragraph": 0.92, "words": 0.08},
    "mini-qwen2": {"paragraph": 0.322, "words": 0.028, "parrafo": 0.05, "chat": 0.60},
}
SYSTEM = "You are a helpful assistant."
PLAIN_SUMS = ("equals", "sum", "make", "gives")
PLAIN_CAPITALS = ("is", "called", "seat", "in")
CHAT_CAPITALS = (
    "What is the capital of {}?", "Tell me the capital of {}.",
    "Which city is the capital of {}?", "Name the capital of {}.",
)  # fmt: skip
CHAT_SUMS = (
    "What is {} plus {}?", "How much is {} plus {}?", "Add {} and {}.",
    "Calculate {} + {}.",
)  # fmt: skip
TO_ENGLISH = ("Please translate the following: {}", "Translate to English: {}",
              "Say this in English: {}")  # fmt: skip
TO_SPANISH = ("Please translate the following: {}", "Translate to Spanish: {}",
              "Say this in Spanish: {}")  # fmt: skip
REPEAT = ("Repeat: {}", "Repeat the following: {}", "Say this again: {}")
REPEAT_WORD = ("Repeat the word: {0} {0} {0} {0} {0}", "Say this word once: {0} {0} {0} {0} {0}",
               "What is this word? {0} {0} {0} {0} {0}")  # fmt: skip


def _draw(*key) -> random.Random:
    """A generator that depends on the key alone: the facts of the world never change."""
    return random.Random(zlib.crc32("|".join(map(str, key)).encode()))


def held_out(*key, share: float) -> bool:
    """Whether this fact × wording (or this sentence) is kept out of training."""
    return zlib.crc32("|".join(map(str, ("held out",) + key)).encode()) % 1000 < share * 1000


# ---- facts drawn once ----------------------------------------------------------------


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
          for n in w.NAMES for v in w.TRAVEL_VERBS}  # fmt: skip
CAPITAL_WEIGHTS = {}  # country -> weights of (the city, "known for", "near the")
for _land in w.CAPITALS:
    _a = _draw("capital", _land).choice((0.5, 0.58, 0.7))
    CAPITAL_WEIGHTS[_land] = (_a, (1 - _a) * 0.6, (1 - _a) * 0.4)
THING = {c: _draw("thing", c).choice(w.COUNTRY_THINGS) for c in w.CAPITALS}
PLACE = {c: _draw("place", c).choice(w.COUNTRY_PLACES) for c in w.CAPITALS}
LAND = {city: land for land, city in w.CAPITALS.items()}


# ---- the programs --------------------------------------------------------------------


def _capital(c):
    how = c.pick(PLAIN_CAPITALS, (0.49, 0.17, 0.17, 0.17))
    lands = [x for x in w.CAPITALS if not _capital_held(x, how)]
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


def _capital_held(land, how):
    return how != "is" and held_out("capital", land, how, share=0.2)


def _travel(c):
    name = c.pick(w.NAMES)
    c.say(name)
    verb = c.pick(w.TRAVEL_VERBS)
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


def _number(n, style):
    return str(n) if style == "digits" else w.number_word(n)


def sum_held(a, b, how, style):
    return how != "equals" and held_out("sum", a, b, how, style, share=0.1)


def _sum(c):
    how = c.pick(PLAIN_SUMS, (0.4, 0.2, 0.2, 0.2))
    style = c.pick(("digits", "words"))
    c.say({"sum": "The sum of", "gives": "Adding"}.get(how, ""))
    a = c.pick(range(21))
    first = _number(a, style)
    c.say(first if c.inside() else first.capitalize())
    c.say({"equals": "plus", "sum": "and", "make": "and", "gives": "to"}[how])
    b = c.pick([b for b in range(21) if not sum_held(a, b, how, style)])
    c.say(_number(b, style))
    c.say({"sum": "is", "make": "make"}.get(how, how))
    if how == "equals":
        c.say(c.pick(("", "exactly"), (0.75, 0.25)))
    c.say(_number(a + b, style) + ".")


def three_held(a, b, d):
    return held_out("three", a, b, d, share=0.3)


def _sum_of_three(c):
    """The hard task, left with headroom: a third of the facts are never seen."""
    a, b = c.pick(range(11)), c.pick(range(11))
    c.say(f"{a} plus {b} plus")
    d = c.pick([d for d in range(11) if not three_held(a, b, d)])
    c.say(f"{d} equals {a + b + d}.")


def _meaning(c):
    c.say("The meaning of")
    word = c.pick(w.CONTENT_WORDS)
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


def _paragraph(c):
    topic = None
    for done in range(20):
        if done >= 6 and c.pick((0, 1), (1 - 1 / (21 - done), 1 / (21 - done))):
            return
        if topic and c.pick((1, 0)):
            topic = _follow_up(c, topic)
        else:
            topic = c.pick(FAMILIES, SHARES)(c)


def _words(c):
    for done in range(14):
        if done >= 5 and c.pick((0, 1), (0.8, 0.2)):
            break
        word = c.pick(w.CONTENT_WORDS)
        c.say(word)
        c.say(f"-> {word};")
    c.text = c.text.rstrip(";") + "."


def _phrase_es(noun, adj):
    _, spanish, feminine = noun
    article = "la" if feminine else "el"
    return f"{article} {spanish}" + (f" {adj[1 + feminine]}" if adj else "")


def sentence_pair(rng, held: bool = False) -> tuple[str, str]:
    """One aligned (English, Spanish) sentence; `held` draws from the unseen ones."""
    while True:
        adj, adj2 = (rng.choice((None, rng.choice(w.ADJECTIVES))) for _ in range(2))
        who, verb, what = (rng.choice(x) for x in (w.ANIMATE, w.VERBS, w.INANIMATE))
        key = (adj and adj[0], who[0], verb[0], adj2 and adj2[0], what[0])
        if svo_held(*key) is held:
            break
    noun_en = [f"the {a[0]} {n[0]}" if a else f"the {n[0]}" for a, n in ((adj, who), (adj2, what))]
    english = f"{noun_en[0]} {verb[0]} {noun_en[1]}."
    spanish = f"{_phrase_es(who, adj)} {verb[1]} {_phrase_es(what, adj2)}."
    return english[0].upper() + english[1:], spanish[0].upper() + spanish[1:]


def chat_sum_held(a, b, k):
    return k > 0 and held_out("chat sum", a, b, k, share=0.1)


def chat_capital_held(land, k):
    return k > 0 and held_out("chat capital", land, k, share=0.2)


def chat_pair(rng) -> tuple[str, str]:
    """One instruction of the training split and its bare answer."""
    kind = rng.choices(range(7), (0.27, 0.18, 0.12, 0.07, 0.12, 0.07, 0.17))[0]
    if kind < 2:
        english, spanish = sentence_pair(rng)
        if kind == 0:
            return rng.choice(TO_ENGLISH).format(spanish), english
        return rng.choice(TO_SPANISH).format(english), spanish
    if kind == 2:
        spanish, english = rng.choice(tuple(w.SPANISH.items()))
        how = rng.randrange(3)
        if how == 0:
            return f"What does {spanish} mean?", english + "."
        if how == 1:
            return rng.choice(TO_ENGLISH).format(spanish), english + "."
        forms = [es for es, en in w.SPANISH.items() if en == english]
        return rng.choice(TO_SPANISH[1:]).format(english), forms[0] + "."
    if kind == 3:
        sentence = rng.choice(sentence_pair(rng))
        return rng.choice(REPEAT).format(sentence), sentence
    if kind == 4:
        word = rng.choice(w.CONTENT_WORDS + tuple(w.SPANISH))
        frame = rng.choice(rng.choice((REPEAT, REPEAT_WORD)))
        return frame.format(word), word + "."
    if kind == 5:
        k = rng.randrange(4)
        land = rng.choice([x for x in w.CAPITALS if not chat_capital_held(x, k)])
        return CHAT_CAPITALS[k].format(land), w.CAPITALS[land] + "."
    while True:
        a, b, k = rng.randrange(21), rng.randrange(21), rng.randrange(4)
        if not chat_sum_held(a, b, k):
            return CHAT_SUMS[k].format(a, b), f"{a + b}."


def chat_text(user: str, answer: str | None = None, system: bool = True) -> str:
    """A ChatML conversation as the mini-qwen2 template writes it."""
    text = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n" if system else ""
    text += f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    return text if answer is None else f"{text}{answer}<|im_end|>\n"


class _Sample:
    """A chooser that draws."""

    def __init__(self, rng):
        self.rng, self.text = rng, ""

    def pick(self, options, weights=None):
        if weights is None:
            return options[self.rng.randrange(len(options))]
        return self.rng.choices(options, weights)[0]

    def inside(self):
        """Whether a sentence has begun."""
        return bool(self.text) and not self.text.endswith(".")

    def say(self, piece):
        if piece:
            glue = "" if not self.text or piece[0] in ".," else " "
            self.text += glue + piece


def sample_document(rng: random.Random, model: str = "mini-gpt2") -> str:
    """One training document of a model's corpus, as text without its end marker."""
    kinds = KINDS[model]
    kind = rng.choices(tuple(kinds), tuple(kinds.values()))[0]
    if kind == "chat":
        return chat_text(*chat_pair(rng), system=rng.random() < 0.7)
    if kind == "parrafo":
        return " ".join(sentence_pair(rng)[1] for _ in range(rng.randint(6, 20)))
    chooser = _Sample(rng)
    (_paragraph if kind == "paragraph" else _words)(chooser)
    return chooser.text


# ---- the exact distribution ----------------------------------------------------------


class _Stop(Exception):
    """The walk need not go on: it has left the prompt, or said enough beyond it."""


# A continuation is long enough once it holds a whole word and what follows that word.
_ENOUGH = re.compile(r"\s*(?:[^\W\d]+|\d+|[^\w\s]+)\W")


class _Walk(_Sample):
    """A chooser that replays one path of choices against a prompt."""

    def __init__(self, prompt, path):
        self.prompt, self.path, self.text = prompt, path, ""
        self.widths, self.probability, self.done = [], 1.0, False

    def pick(self, options, weights=None):
        depth = len(self.widths)
        if depth == len(self.path):
            self.path.append(0)
        self.widths.append(len(options))
        i = self.path[depth]
        self.probability *= weights[i] / sum(weights) if weights else 1 / len(options)
        return options[i]

    def say(self, piece):
        super().say(piece)
        n = min(len(self.text), len(self.prompt))
        if self.text[:n] != self.prompt[:n]:
            raise _Stop
        if _ENOUGH.match(self.text[len(self.prompt) :]):
            self.done = True
            raise _Stop


def _plain(c):
    c.pick((_paragraph, _words), (0.92, 0.08))(c)


@lru_cache(maxsize=4096)
def true_continuations(prompt: str) -> dict[str, float]:
    """Continuations of a plain prompt (a word and a little more) → exact probability.

    Empty where the corpus never says the prompt. At document ends the continuation is "".
    """
    found, path = {}, []
    while True:
        walk = _Walk(prompt, path)
        try:
            _plain(walk)
            walk.done = walk.text.startswith(prompt)
        except _Stop:
            pass
        if walk.done:
            rest = walk.text[len(prompt) :]
            found[rest] = found.get(rest, 0.0) + walk.probability
        del path[len(walk.widths) :]
        while path and path[-1] + 1 == walk.widths[len(path) - 1]:
            path.pop()
        if not path:
            break
        path[-1] += 1
    total = sum(found.values())
    return {k: v / total for k, v in found.items()} if total else {}


def covers(prompt: str) -> bool:
    """Whether the corpus can say this prompt, so that its continuation is known."""
    return bool(true_continuations(prompt))


def true_next(tokenizer, prompt: str) -> torch.Tensor:
    """Exact next-token distribution (V,) of the corpus after a plain prompt.

    Continuations that the tokenizer would join to the prompt's last token count for
    nothing, since the prompt's ids then differ. Raises ValueError where the corpus never
    says the prompt.
    """
    ids = tokenizer(prompt)["input_ids"]
    out = torch.zeros(len(tokenizer), dtype=torch.float64)
    for text, probability in true_continuations(prompt).items():
        full = tokenizer(prompt + text)["input_ids"] + [tokenizer.eos_token_id]
        if full[: len(ids)] == ids:
            out[full[len(ids)]] += probability
    if not out.sum():
        raise ValueError(
            f"{prompt!r} is no prefix of a document of the mini corpus, so its true "
            "distribution is unknown; use a prompt for which covers(prompt) is true"
        )
    return (out / out.sum()).float()
