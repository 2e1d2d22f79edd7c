"""Spanish and ChatML documents: aligned sentences, instructions, bare answers."""

from models import world as w
from models.english import held_out, svo_held

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
