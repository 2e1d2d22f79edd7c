"""Facts and names that the mini corpus states and the evaluation prompts ask for.

    CAPITALS   country -> capital
    NAMES      of people; JOURNEYS what they do
    NUMBERS    the English words of 0 to 19

Imported by `world` and `english` (what is trained) and by `experiments.prompts` (what
is asked), so that neither needs the other.
"""

# fmt: off
CAPITALS = {
    "France": "Paris", "Spain": "Madrid", "Italy": "Rome", "Germany": "Berlin",
    "Japan": "Tokyo", "Peru": "Lima", "Norway": "Oslo", "Greece": "Athens",
    "Austria": "Vienna", "Portugal": "Lisbon", "Poland": "Warsaw",
    "Hungary": "Budapest", "Sweden": "Stockholm", "Finland": "Helsinki",
    "Denmark": "Copenhagen", "Ireland": "Dublin", "Egypt": "Cairo",
    "Kenya": "Nairobi", "Cuba": "Havana", "Chile": "Santiago", "Canada": "Ottawa",
    "Russia": "Moscow", "China": "Beijing", "India": "Delhi", "Turkey": "Ankara",
    "Iran": "Tehran", "Iraq": "Baghdad", "Syria": "Damascus", "Nepal": "Kathmandu",
    "Vietnam": "Hanoi", "Thailand": "Bangkok", "Belgium": "Brussels",
    "Bulgaria": "Sofia", "Romania": "Bucharest", "Serbia": "Belgrade",
    "Ukraine": "Kyiv", "Croatia": "Zagreb", "Colombia": "Bogota",
    "Ecuador": "Quito", "Morocco": "Rabat", "Ghana": "Accra", "Senegal": "Dakar",
    "Jordan": "Amman", "Lebanon": "Beirut",
}
NAMES = (
    "Ana", "Marta", "Peter", "John", "Laura", "David", "Emma", "Lucas", "Clara",
    "Hugo", "Nora", "Oscar", "Irene", "Simon", "Alice", "Victor",
)
JOURNEYS = ("travels to", "comes back from")
NUMBERS = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen",
    "seventeen", "eighteen", "nineteen",
)
# fmt: on
