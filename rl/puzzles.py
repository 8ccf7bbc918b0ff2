"""Procedural logic puzzles with exact checkers: Morse code, table reasoning and number riddles.

Families that reasoning-gym does not have. A puzzle is a pure function of a ``random.Random`` and a size from 1 (easy)
to 5 (hard); each family words its question in one way and in one order, so that two questions with different texts
are different puzzles and the split by text (``rl.procedural``) is one by content.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
import random
import re
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rl.procedural import is_held_out

SIZES = range(1, 6)
LONGEST = 500
"""Characters beyond which a reply counts as wrong unread."""


@dataclass(frozen=True, kw_only=True)
class Puzzle:
    """One question with a right answer; ``accepts`` is what ``check`` needs, as plain JSON."""

    family: str
    question: str
    answer: str
    accepts: Mapping[str, Any]


def _puzzle(family: str, question: str, answer: str) -> Puzzle:
    """A puzzle with one right answer."""
    return Puzzle(family=family, question=question, answer=answer, accepts={"text": answer})


_CODES = (
    ".-", "-...", "-.-.", "-..", ".", "..-.", "--.", "....", "..", ".---", "-.-", ".-..", "--", "-.", "---", ".--.",
    "--.-", ".-.", "...", "-", "..-", "...-", ".--", "-..-", "-.--", "--..",
)  # fmt: skip
_MORSE = dict(zip(string.ascii_uppercase, _CODES, strict=True))
_WORDS = """
ANCHOR APPLE ARROW AUTUMN BADGER BAKER BANJO BARLEY BASKET BEACON BISHOP BLANKET BOTTLE BRANCH BREAD BRIDGE BRONZE
BUCKET BUTTER CABIN CAMEL CANDLE CANYON CARPET CASTLE CELLAR CHALK CHERRY CIRCLE CLIFF CLOCK CLOUD COAST COFFEE COPPER
CORAL COTTON CRANE CRICKET CROWN CURTAIN DAGGER DAISY DESERT DIAMOND DOCTOR DOLPHIN DONKEY DRAGON DRUM EAGLE EARTH
ELBOW EMBER ENGINE EQUATOR FALCON FARMER FEATHER FIDDLE FINGER FLAME FLUTE FOREST FOSSIL FOUNTAIN FROST GALAXY GARDEN
GARLIC GATE GINGER GLACIER GLOVE GOBLET GRAPE GRAVEL GUITAR HAMMER HARBOR HARVEST HAZEL HELMET HERON HONEY HORIZON
HORSE HUNTER ICEBERG INSECT ISLAND IVORY JACKET JASMINE JEWEL JIGSAW JOURNEY JUNGLE KETTLE KEY KITCHEN KNIGHT LADDER
LAGOON LANTERN LEATHER LEMON LETTER LIBRARY LILAC LINEN LIZARD LOCK MAGNET MAPLE MARBLE MARKET MEADOW MELON MIRROR
MONKEY MORNING MOUNTAIN MUSEUM NEEDLE NETTLE NIGHT NORTH NUTMEG OASIS OCEAN OLIVE ONION ORANGE ORCHARD OTTER OVEN
OYSTER PADDLE PALACE PARROT PEBBLE PENCIL PEPPER PIANO PIGEON PILLOW PLANET POCKET POTTER PUZZLE QUARRY QUARTZ QUEEN
QUILT RABBIT RADISH RAVEN RIBBON RIVER ROCKET SADDLE SALMON SCARF SEED SHADOW SHELL SILVER SPARROW SPRING STABLE STONE
SUMMER SUNSET TABLE TEMPLE THUNDER TIGER TIMBER TOWER TRUMPET TULIP TUNNEL TURTLE UMBRELLA VALLEY VELVET VILLAGE
VIOLIN VOYAGE WAGON WALNUT WATER WEAVER WHALE WHEAT WILLOW WINDOW WINTER WIZARD WOLF YARROW YELLOW ZEBRA ZENITH
""".split()  # noqa: SIM905 - a list of this many strings is hard to read


def _morse(words: Sequence[str]) -> str:
    return " / ".join(" ".join(_MORSE[letter] for letter in word) for word in words)


def morse_decode(rng: random.Random, size: int) -> Puzzle:
    """International Morse code to ``size`` words in upper case."""
    words = rng.sample(_WORDS, size)
    question = (
        'Decode this International Morse code; spaces separate letters, " / " separates words. '
        f"Answer with the text in upper case.\n\n{_morse(words)}"
    )
    return _puzzle("morse_decode", question, " ".join(words))


def morse_encode(rng: random.Random, size: int) -> Puzzle:
    """``size`` words to International Morse code."""
    words = rng.sample(_WORDS, size)
    question = (
        'Write this text in International Morse code with "." and "-"; separate letters by a space and words by '
        f'" / ". Answer with the code alone.\n\n{" ".join(words)}'
    )
    return _puzzle("morse_encode", question, _morse(words))


_PEOPLE = (
    "Adira", "Boran", "Celwyn", "Dorian", "Elspet", "Farrin", "Gilda", "Hadwin", "Ilsabet", "Jorund", "Kestra",
    "Lothar", "Maelis", "Nerys", "Osric", "Perrin", "Quilla", "Rowena", "Sorrel", "Tamsin", "Ulrik", "Vesna", "Wendel",
    "Yorick",
)  # fmt: skip
_CITIES = (
    "Ardenmoor", "Brixholt", "Calverton", "Dunmarrow", "Eastmere", "Fallowby", "Greywick", "Harthope", "Kelmarsh",
    "Lindale", "Norwell", "Oxbarrow",
)  # fmt: skip
_PRODUCTS = (
    "Andrel", "Bivox", "Corlume", "Dentry", "Fenlo", "Glimmet", "Hurvex", "Jantic", "Lumbra", "Morvane", "Nuvelle",
    "Pellit", "Quindle", "Tazu",
)  # fmt: skip


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A titled table in markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join([f"{title}:", "", *(f"| {' | '.join(map(str, line))} |" for line in lines)])


@dataclass(frozen=True)
class _Column:
    """A column of a table: what its cells are (a key of ``_TABLES``, or a range of numbers) and how to ask for one."""

    name: str
    cells: str | range
    phrase: str


_TABLES: dict[str, tuple[tuple[str, ...], tuple[_Column, ...]]] = {
    "Person": (
        _PEOPLE,
        (
            _Column("City", "City", "the city where {} lives"),
            _Column("Sells", "Product", "the product that {} sells"),
            _Column("Age", range(18, 90), "the age of {}"),
        ),
    ),
    "City": (
        _CITIES,
        (
            _Column("Mayor", "Person", "the mayor of {}"),
            _Column("Main export", "Product", "the main export of {}"),
            _Column("Population", range(1000, 100000), "the population of {}"),
        ),
    ),
    "Product": (
        _PRODUCTS,
        (
            _Column("Inventor", "Person", "the inventor of {}"),
            _Column("Made in", "City", "the city where {} is made"),
            _Column("Price", range(5, 500), "the price of {}"),
        ),
    ),
}
"""Names of the rows and columns beside the name, by the first column's header."""


def _row(rng: random.Random, columns: Sequence[_Column], names: Mapping[str, Sequence[str]]) -> dict[str, str]:
    return {c.name: str(rng.choice(c.cells if isinstance(c.cells, range) else names[c.cells])) for c in columns}


def table_lookup(rng: random.Random, size: int) -> Puzzle:
    """A chain of ``size`` look-ups in two tables (sizes 1 and 2) or three; the answer is the last cell.

    The chain never comes back to a name, so that it has no short cut.
    """
    kinds = list(_TABLES)[: 2 if size < 3 else 3]
    columns = {kind: [c for c in _TABLES[kind][1] if isinstance(c.cells, range) or c.cells in kinds] for kind in kinds}
    while True:
        names = {kind: rng.sample(_TABLES[kind][0], 4 + size) for kind in kinds}
        rows = {kind: {name: _row(rng, columns[kind], names) for name in names[kind]} for kind in kinds}
        kind = rng.choice(kinds)
        phrase = answer = rng.choice(names[kind])
        path = [answer]
        for left in reversed(range(size)):
            column = rng.choice([c for c in columns[kind] if left == 0 or isinstance(c.cells, str)])
            phrase, answer, kind = column.phrase.format(phrase), rows[kind][answer][column.name], str(column.cells)
            path.append(answer)
        if len(set(path)) == len(path):
            break
    tables = [
        _table(
            f"Table {i}", [kind, *(c.name for c in columns[kind])], [[n, *r.values()] for n, r in rows[kind].items()]
        )
        for i, kind in enumerate(kinds, 1)
    ]
    question = "\n\n".join([*tables, f"What is {phrase}? Answer with the cell of the table alone."])
    return _puzzle("table_lookup", question, answer)


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "is": operator.eq,
    "is not": operator.ne,
    "is more than": operator.gt,
    "is less than": operator.lt,
}
_TOTALS: dict[str, Callable[[Sequence[Mapping[str, Any]]], int]] = {
    "how many orders are there": len,
    "what is the sum of the quantities": lambda rows: sum(row["Quantity"] for row in rows),
    "what is the maximum quantity": lambda rows: max(row["Quantity"] for row in rows),
    "what is the sum of quantity times price": lambda rows: sum(row["Quantity"] * row["Price"] for row in rows),
    "what is the maximum of quantity times price": lambda rows: max(row["Quantity"] * row["Price"] for row in rows),
}


def table_aggregate(rng: random.Random, size: int) -> Puzzle:
    """Orders joined with a catalogue: a count, sum or maximum over the orders that meet ``1 + size // 2`` conditions.

    The first condition is always on the catalogue, at least two orders meet all of them, and no condition is idle.
    """
    while True:
        cities, buyers = rng.sample(_CITIES, 3), rng.sample(_PEOPLE, 3)
        catalogue: list[dict[str, Any]] = [
            {"Product": name, "Origin": rng.choice(cities), "Price": rng.randint(2, 30)}
            for name in rng.sample(_PRODUCTS, 2 + size)
        ]
        orders = [
            {"Order": i, "Buyer": rng.choice(buyers), "Product": item["Product"], "Quantity": rng.randint(1, 20)}
            for i, item in enumerate(rng.choices(catalogue, k=3 + 3 * size), 1)
        ]
        of_catalogue = [
            ("Origin", rng.choice(["is", "is not"]), rng.choice(cities)),
            ("Price", rng.choice(["is more than", "is less than"]), rng.randint(5, 27)),
        ]
        of_orders = [
            ("Buyer", rng.choice(["is", "is not"]), rng.choice(buyers)),
            ("Quantity", rng.choice(["is more than", "is less than"]), rng.randint(4, 17)),
        ]
        first = rng.choice(of_catalogue)
        others = [condition for condition in of_catalogue + of_orders if condition != first]
        conditions = [first, *rng.sample(others, size // 2)]
        items = {item["Product"]: item for item in catalogue}
        joined = [items[order["Product"]] | order for order in orders]
        met = [[_COMPARE[sign](row[column], value) for column, sign, value in conditions] for row in joined]
        kept = [row for row, flags in zip(joined, met, strict=True) if all(flags)]
        idle = [all(flags[i] or sum(flags) < len(flags) - 1 for flags in met) for i in range(len(conditions))]
        if len(kept) >= 2 and not any(idle):
            break
    total = rng.choice(list(_TOTALS))
    texts = [f"the {column.lower()} {sign} {value}" for column, sign, value in sorted(conditions, key=str)]
    question = "\n\n".join(
        [
            _table("Catalogue", list(catalogue[0]), [list(item.values()) for item in catalogue]),
            _table("Orders", list(orders[0]), [list(order.values()) for order in orders]),
            f"Over the orders where {' and '.join(texts)}: {total}? Answer with a whole number.",
        ]
    )
    return _puzzle("table_aggregate", question, str(_TOTALS[total](kept)))


_PLACES = ("thousands", "hundreds", "tens", "units")


@dataclass(frozen=True)
class _Measure:
    """Something that can be told about a number: what it is, from the digits, and a sentence for its value."""

    value: Callable[[Sequence[int]], int]
    sentence: Callable[[int], str]


def _difference(i: int, j: int, places: Sequence[str]) -> _Measure:
    def sentence(value: int) -> str:
        relation = f"is {abs(value)} {'more' if value > 0 else 'less'} than" if value else "equals"
        return f"The {places[i]} digit {relation} the {places[j]} digit."

    return _Measure(lambda digits: digits[i] - digits[j], sentence)


def _remainder(k: int) -> _Measure:
    return _Measure(
        lambda digits: functools.reduce(lambda number, digit: 10 * number + digit, digits) % k,
        lambda value: f"Divided by {k} it leaves a remainder of {value}." if value else f"It is divisible by {k}.",
    )


@functools.cache
def _measures(width: int) -> list[_Measure]:
    """What a riddle may tell about a number of ``width`` digits."""
    places = _PLACES[-width:]
    return [
        _Measure(sum, lambda value: f"Its digits add up to {value}."),
        _Measure(math.prod, lambda value: f"The product of its digits is {value}."),
        _Measure(max, lambda value: f"Its largest digit is {value}."),
        _Measure(min, lambda value: f"Its smallest digit is {value}."),
        _Measure(lambda digits: len(set(digits)), lambda value: f"Number of different digits in it: {value}."),
        _Measure(
            lambda digits: sum(digit % 2 for digit in digits), lambda value: f"Number of odd digits in it: {value}."
        ),
        *(_difference(i, j, places) for i, j in itertools.combinations(range(width), 2)),
        *(_remainder(k) for k in (3, 4, 7, 9, 11)),
    ]


@functools.cache
def _numbers(width: int) -> list[tuple[int, ...]]:
    """The digits of every number of ``width`` digits."""
    return [tuple(map(int, str(number))) for number in range(10 ** (width - 1), 10**width)]


def number_riddle(rng: random.Random, size: int) -> Puzzle:
    """A number of 2, 2, 3, 3 or 4 digits (by size) from facts that no other such number meets.

    Sizes 1 and 3 give one digit away.
    """
    width = (2, 2, 3, 3, 4)[size - 1]
    measures = _measures(width)
    secret = rng.choice(_numbers(width))
    candidates, given = _numbers(width), []
    if size in (1, 3):
        place = rng.randrange(width)
        given = [f"The {_PLACES[place - width]} digit is {secret[place]}."]
        candidates = [digits for digits in candidates if digits[place] == secret[place]]
    told = []
    for i in rng.sample(range(len(measures)), len(measures)):
        value = measures[i].value
        fitting = [digits for digits in candidates if value(digits) == value(secret)]
        if len(fitting) < len(candidates):
            told.append(i)
            candidates = fitting
    assert candidates == [secret]
    facts = [*given, *(measures[i].sentence(measures[i].value(secret)) for i in sorted(told))]
    question = f"I am thinking of a number with {width} digits. {' '.join(facts)} What is the number?"
    return _puzzle("number_riddle", question, "".join(map(str, secret)))


FAMILIES: dict[str, Callable[[random.Random, int], Puzzle]] = {
    "morse_decode": morse_decode,
    "morse_encode": morse_encode,
    "table_lookup": table_lookup,
    "table_aggregate": table_aggregate,
    "number_riddle": number_riddle,
}


def puzzle_at(index: int, *, families: Sequence[str], seed: int, size: int, held_out: bool) -> Puzzle:
    """Puzzle number ``index`` of an endless stream: families in equal shares, all of one size and from one split.

    It depends on its arguments alone, so a stream's position is one integer. Raises ``ValueError`` for an unknown
    family or size.
    """
    if not families or not set(families) <= set(FAMILIES):
        raise ValueError(f"families must name some of {sorted(FAMILIES)}, got {list(families)}")
    if size not in SIZES:
        raise ValueError(f"size must be a whole number from {SIZES[0]} to {SIZES[-1]}, got {size!r}")
    rng = random.Random(f"puzzles/{seed}/{size}/{held_out}/{index}")
    make = FAMILIES[rng.choice(list(families))]
    while True:
        puzzle = make(rng, size)
        if is_held_out(puzzle.question) == held_out:
            return puzzle


def check(puzzle_family: str, accepts: Mapping[str, Any], reply: str) -> bool:
    """Whether a reply, the final answer's text alone, is right. Raises ``ValueError`` for an unknown family."""
    if puzzle_family not in FAMILIES:
        raise ValueError(f"puzzle_family must be one of {sorted(FAMILIES)}, got {puzzle_family!r}")
    plain = _plain_morse if puzzle_family == "morse_encode" else _plain
    return len(reply) <= LONGEST and plain(reply) == plain(accepts["text"])


_NUMBER = re.compile(r"[+-]?([0-9]+|[0-9]{1,3}(,[0-9]{3})+)(\.[0-9]+)?")


def _plain(text: str) -> str:
    """Text without what does not matter: case, extra spaces, the final full stop, how a number is written."""
    text = " ".join(text.split()).removesuffix(".").rstrip().casefold()
    return str(Fraction(text.replace(",", ""))) if _NUMBER.fullmatch(text) else text


def _plain_morse(text: str) -> str:
    """Morse code with single spaces; a final full stop is a dot."""
    return " ".join(text.replace("/", " / ").split())
