"""Spanish and ChatML documents: aligned sentences, instructions, bare answers."""

from models import world as w
from models.english import CITY_ENDS, PLACE, THING, frame_held, held_out, svo_held

SYSTEM = "You are a helpful assistant."
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
FIVE = "{0} {0} {0} {0} {0}"
REPEAT_WORD = tuple(
    f"{ask} {FIVE}"
    for ask in ("Repeat the word:", "Say this word once:", "What is this word?")
)
TELL = ("Tell me about {}.", "What do you know about {}?", "Write about {}.")
COUNT = ("Count from {} to {}.", "Write the numbers from {} to {}.")
THREE_TIMES = ("Say three times: {}", "Write this three times: {}")


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
    noun_en = [
        f"the {a[0]} {n[0]}" if a else f"the {n[0]}"
        for a, n in ((adj, who), (adj2, what))
    ]
    english = f"{noun_en[0]} {verb[0]} {noun_en[1]}."
    spanish = f"{_phrase_es(who, adj)} {verb[1]} {_phrase_es(what, adj2)}."
    return english[0].upper() + english[1:], spanish[0].upper() + spanish[1:]


def chat_sum_held(a, b, k):
    return k > 0 and held_out("chat sum", a, b, k, share=0.1)


def chat_capital_held(land, k):
    return k > 0 and held_out("chat capital", land, k, share=0.2)


def _open_frame(rng, wordings, word) -> str:
    """The word in one of these wordings that it is not held out of; in the last where
    it is held out of all, so that every word is trained."""
    open_to = [f for f in wordings if not frame_held(f, word)] or [wordings[-1]]
    return rng.choice(open_to).format(word)


def about(topic: str) -> str:
    """What the world knows of a city or a noun, in sentences: a long answer."""
    if topic in w.NOUNS:
        meaning, first, second = w.NOUNS[topic]
        return (
            f"The meaning of {topic} is {meaning}. The {topic} {first}. "
            f"The {topic} {second}. I like the {topic} because the {topic} {first}. "
            f"People say that the {topic} {second}, and it is true."
        )
    land = next(land for land, city in w.CAPITALS.items() if city == topic)
    early, late = CITY_ENDS[topic][0]
    return (
        f"{topic} is the capital of {land}. In {topic} people love their "
        f"{THING[land]}. {topic} is near the {PLACE[land]}. Many visitors come "
        f"{early}, and others come {late}. {land} is known for its {THING[land]}."
    )


def long_pair(rng) -> tuple[str, str]:
    """Draw an instruction whose answer is mostly longer than its prompt."""
    kind = rng.randrange(3)
    if kind == 0:
        topic = rng.choice(tuple(w.NOUNS) + tuple(w.CAPITALS.values()))
        k = rng.choice([k for k in range(3) if not (k and frame_held(TELL[k], topic))])
        return TELL[k].format(topic), about(topic)
    if kind == 1:
        first = rng.randrange(11)
        last = rng.randrange(first + 22, 41)
        numbers = " ".join(map(str, range(first, last + 1)))
        return rng.choice(COUNT).format(first, last), numbers + "."
    sentence = rng.choice(sentence_pair(rng))
    return rng.choice(THREE_TIMES).format(sentence), " ".join([sentence] * 3)


def chat_pair(rng) -> tuple[str, str]:
    """One instruction of the training split and its bare answer."""
    weights = (0.25, 0.17, 0.11, 0.06, 0.11, 0.06, 0.16, 0.08)
    kind = rng.choices(range(8), weights)[0]
    if kind == 7:
        return long_pair(rng)
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
            return _open_frame(rng, TO_ENGLISH, spanish), english + "."
        forms = [es for es, en in w.SPANISH.items() if en == english]
        return _open_frame(rng, TO_SPANISH[1:], english), forms[0] + "."
    if kind == 3:
        sentence = rng.choice(sentence_pair(rng))
        return rng.choice(REPEAT).format(sentence), sentence
    if kind == 4:
        word = rng.choice(w.CONTENT_WORDS + tuple(w.SPANISH))
        return _open_frame(rng, rng.choice((REPEAT, REPEAT_WORD)), word), word + "."
    if kind == 5:
        k = rng.randrange(4)
        land = rng.choice([x for x in w.CAPITALS if not chat_capital_held(x, k)])
        return CHAT_CAPITALS[k].format(land), w.CAPITALS[land] + "."
    while True:
        a, b, k = rng.randrange(21), rng.randrange(21), rng.randrange(4)
        if not chat_sum_held(a, b, k):
            return CHAT_SUMS[k].format(a, b), f"{a + b}."


# Reading frames of experiments.prompts -> what training calls them.
TRAINED_FRAMES = {
    "patchscopes": "list",
    "completion": "meaning",
    "instruction": TO_ENGLISH[0],
    "selfie": REPEAT_WORD[0],
}


def held_in_frame(frame: str, word: str) -> bool:
    """Whether a word that training knows was kept out of this reading frame."""
    asked = w.SPANISH if frame == "instruction" else (*w.CONTENT_WORDS, *w.SPANISH)
    known = frame in TRAINED_FRAMES and word in asked
    return known and frame_held(TRAINED_FRAMES[frame], word)


def chat_text(user: str, answer: str | None = None, system: bool = True) -> str:
    """A ChatML conversation as the mini-qwen2 template writes it."""
    text = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n" if system else ""
    text += f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    return text if answer is None else f"{text}{answer}<|im_end|>\n"
