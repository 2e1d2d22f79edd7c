"""The small world the mini models live in: its words and its facts, as plain data.

Nothing here is random: what is drawn (who feeds which animal, and how often) is drawn
by `corpus.py` from a fixed seed. Spanish is aligned with English word by word.
"""

from models.facts import CAPITALS, NUMBERS

# What a capital sentence may say instead of the city: "known for its X", "near the Y".
COUNTRY_THINGS = ("museums", "gardens", "bridges", "markets", "music", "temples")
COUNTRY_PLACES = ("sea", "mountains", "desert", "forest", "border")

CITY_PHRASES = (
    "by train", "by boat", "along the coast", "through the mountains", "in spring",
    "in winter", "with friends", "for work", "to study", "after the harvest",
)  # fmt: skip

PEOPLE = {
    "baker": "a person who bakes", "farmer": "a person who grows food",
    "teacher": "a person who teaches", "doctor": "a person who heals",
    "painter": "a person who paints", "sailor": "a person who sails",
    "gardener": "a person who keeps a garden", "tailor": "a person who sews",
    "nurse": "a person who cares for the sick", "pilot": "a person who flies",
    "miller": "a person who grinds grain", "hunter": "a person who hunts",
    "singer": "a person who sings", "writer": "a person who writes",
    "driver": "a person who drives", "soldier": "a person who fights",
    "carpenter": "a person who works with wood", "student": "a person who learns",
    "lawyer": "a person who knows the law", "merchant": "a person who trades",
    "shepherd": "a person who keeps sheep", "cook": "a person who cooks",
    "potter": "a person who makes pots", "judge": "a person who decides",
}  # fmt: skip

# verb -> the nouns it may take. The nouns of one verb differ in what follows them.
CHORES = {
    "feeds": ("cat", "dog", "horse", "cow", "bird", "duck", "goat", "pig"),
    "paints": (
        "house",
        "tree",
        "mountain",
        "river",
        "moon",
        "flower",
        "boat",
        "bridge",
    ),
    "eats": ("bread", "apple", "cheese", "soup", "egg", "rice", "fish", "cake"),
    "carries": ("book", "lamp", "chair", "box", "basket", "coat", "clock", "cup"),
}
NOUN_PHRASES = (
    "in the garden", "by the window", "near the gate", "under the stairs",
    "behind the barn", "on the hill", "at noon", "before dinner", "after school",
    "without a sound", "with great care", "every morning", "for the children",
)  # fmt: skip

# noun -> (meaning in plain English, two things a story says of it next)
NOUNS = {
    "cat": ("a small pet that purrs", "sleeps in the sun", "hides from the rain"),
    "dog": ("a loyal pet that barks", "barks at strangers", "guards the door"),
    "horse": ("a large animal to ride", "runs across the field", "likes fresh hay"),
    "cow": ("a farm animal that gives milk", "stands in the grass", "moves slowly"),
    "bird": ("an animal with wings", "sings at dawn", "builds a nest"),
    "duck": ("an animal that swims and flies", "swims on the pond",
             "follows its mother"),
    "goat": ("a farm animal with horns", "climbs the rocks", "chews old paper"),
    "pig": ("a pink farm animal", "rolls in the mud", "looks for roots"),
    "house": ("a building to live in", "has a green roof", "stands on a corner"),
    "tree": ("a tall plant with leaves", "gives cool shade", "grows very old"),
    "mountain": ("a very high hill", "is covered in snow", "looks blue from afar"),
    "river": ("a long stream of water", "flows to the lake", "turns at the mill"),
    "moon": ("the light in the night sky", "rises over the town", "hides in a cloud"),
    "flower": ("the bright part of a plant", "smells very sweet", "opens in the light"),
    "boat": ("a small ship", "floats on the lake", "needs a new sail"),
    "bridge": ("a road over water", "is made of stone", "joins two towns"),
    "bread": ("a baked food from flour", "is still warm", "smells of the oven"),
    "apple": ("a round sweet fruit", "falls from its branch", "tastes a little sour"),
    "cheese": ("a food made from milk", "comes from the valley", "is full of holes"),
    "soup": ("a hot liquid food", "is far too hot", "needs more salt"),
    "egg": ("food laid by a hen", "breaks very easily", "is cooked in water"),
    "rice": ("small white grains", "grows in wet fields", "comes in a sack"),
    "fish": ("an animal with fins", "comes from the sea", "is as fresh as snow"),
    "cake": ("a sweet baked treat", "is for a birthday", "has cream on top"),
    "book": ("pages to read", "tells an old story", "lies open all night"),
    "lamp": ("a thing that gives light", "burns until late", "hangs over the table"),
    "chair": ("a seat with a back", "has a broken leg", "belongs to a king"),
    "box": ("a container with a lid", "holds many letters", "is locked with a key"),
    "basket": ("a container made of reeds", "is full of plums",
               "weighs almost nothing"),
    "coat": ("warm clothes for winter", "keeps out the cold", "has deep pockets"),
    "clock": ("a machine that tells time", "is always slow", "rings at midnight"),
    "cup": ("a small thing to drink from", "is made of clay", "shines like gold"),
    "girl": ("a young female child", "laughs at a joke", "jumps over a puddle"),
    "boy": ("a young male child", "whistles a tune", "climbs over the wall"),
    "woman": ("a grown female person", "walks into town", "reads a letter"),
    "man": ("a grown male person", "waits at the station", "smokes a pipe"),
    "king": ("a man who rules", "sits on a throne", "speaks to the people"),
    "queen": ("a woman who rules", "wears a crown", "gives a feast"),
    "milk": ("a white drink from cows", "turns sour in summer", "stands in a jug"),
    "car": ("a machine with four wheels", "makes a loud noise", "stops at the light"),
    "key": ("a thing that opens a lock", "fits only one door", "is lost again"),
    "table": ("a flat top on legs", "is set for six", "is made of oak"),
}  # fmt: skip

# English, Spanish, feminine?
ANIMATE = (
    ("cat", "gato", False), ("dog", "perro", False), ("girl", "niña", True),
    ("boy", "niño", False), ("bird", "pájaro", False), ("horse", "caballo", False),
    ("cow", "vaca", True), ("woman", "mujer", True), ("man", "hombre", False),
    ("king", "rey", False), ("queen", "reina", True),
)  # fmt: skip
INANIMATE = (
    ("bread", "pan", False), ("apple", "manzana", True), ("house", "casa", True),
    ("book", "libro", False), ("river", "río", False), ("tree", "árbol", False),
    ("milk", "leche", True), ("flower", "flor", True), ("car", "coche", False),
    ("moon", "luna", True), ("mountain", "montaña", True), ("boat", "barco", False),
    ("key", "llave", True), ("table", "mesa", True),
)  # fmt: skip
VERBS = (
    ("sees", "ve"), ("wants", "quiere"), ("has", "tiene"), ("finds", "encuentra"),
    ("buys", "compra"), ("loves", "ama"), ("draws", "dibuja"),
)  # fmt: skip
# English, Spanish masculine, Spanish feminine
ADJECTIVES = (
    ("red", "rojo", "roja"), ("small", "pequeño", "pequeña"),
    ("new", "nuevo", "nueva"), ("white", "blanco", "blanca"),
    ("old", "viejo", "vieja"), ("black", "negro", "negra"),
    ("clean", "limpio", "limpia"),
)  # fmt: skip
OTHER_MEANINGS = {
    "sees": "looks at", "wants": "would like", "has": "owns", "finds": "comes upon",
    "buys": "pays for", "loves": "likes very much", "draws": "makes a picture of",
    "red": "the colour of blood", "small": "not big", "new": "not used before",
    "white": "the colour of snow", "old": "not young", "black": "the colour of night",
    "clean": "without dirt",
}  # fmt: skip

TENS = {2: "twenty", 3: "thirty", 4: "forty"}


def number_word(n: int) -> str:
    """The English word of 0 ≤ n ≤ 49."""
    if n < 20:
        return NUMBERS[n]
    tens, unit = divmod(n, 10)
    return TENS[tens] + (f"-{NUMBERS[unit]}" if unit else "")


# The reverse and the forward dictionary of every word with a Spanish form.
SPANISH = {es: en for en, es, _ in ANIMATE + INANIMATE}
SPANISH |= {es: en for en, es in VERBS}
SPANISH |= {es: en for en, *forms in ADJECTIVES for es in forms}

MEANINGS = {word: facts[0] for word, facts in NOUNS.items()}
MEANINGS |= PEOPLE | OTHER_MEANINGS
MEANINGS |= {city: f"the capital of {land}" for land, city in CAPITALS.items()}
MEANINGS |= {land: f"the country around {city}" for land, city in CAPITALS.items()}
MEANINGS |= {number_word(n): f"the number {n}" for n in range(41)}
MEANINGS |= {str(n): f"the number {number_word(n)}" for n in range(41)}
CONTENT_WORDS = tuple(MEANINGS)
