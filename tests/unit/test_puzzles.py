import itertools
import json
import re

import pytest

from rl.puzzles import FAMILIES, SIZES, check, puzzle_at

MORSE_TREE = " ETIANMSURWDKGOHVF_L_PJBXCYZQ__"
"""Letters by breadth: a dot leads to child 2n+1, a dash to 2n+2."""


def puzzles(family, size, count, *, seed=0, held_out=False):
    return [puzzle_at(i, families=[family], seed=seed, size=size, held_out=held_out) for i in range(count)]


def read_morse(code):
    place = 0
    for sign in code:
        place = 2 * place + {".": 1, "-": 2}[sign]
    return MORSE_TREE[place]


def tables(question):
    """The rows of every table as dictionaries, by the first column's header and cell."""
    found = {}
    for block in question.split("\n\n"):
        if block.startswith("|"):
            header, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.split("\n")]
            found[header[0]] = {row[0]: dict(zip(header, row, strict=True)) for row in rows}
    return found


def wrong_replies(puzzle):
    """Replies near the answer that are wrong whatever the puzzle."""
    answer = puzzle.answer
    yield from ("", answer[:-1], answer + answer[-1], f"{answer} {answer}", f"The answer is {answer}")
    if answer.isdigit():
        yield from (str(int(answer) + 1), str(int(answer) - 1), f"-{answer}", f"{answer}.5", f"{answer}0", f"1{answer}")
    if puzzle.family == "morse_encode":
        yield from (answer.translate(str.maketrans(".-", "-.")), answer.replace(" ", ""), answer + ".", answer + " .")


@pytest.mark.parametrize("family", FAMILIES)
def test_right_answers_are_accepted_and_wrong_ones_refused(family):
    for puzzle in (p for size in SIZES for p in puzzles(family, size, 40)):
        accepts = json.loads(json.dumps(puzzle.accepts))
        assert check(family, accepts, puzzle.answer), puzzle
        assert check(family, accepts, f"  {puzzle.answer}\n"), puzzle
        for reply in wrong_replies(puzzle):
            assert not check(family, accepts, reply), (puzzle, reply)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answer_of_another_puzzle_is_refused(family):
    for puzzle, other in itertools.pairwise(p for size in SIZES for p in puzzles(family, size, 40, seed=4)):
        if puzzle.accepts != other.accepts:
            assert not check(family, puzzle.accepts, other.answer), (puzzle, other.answer)


def test_a_puzzle_depends_on_its_arguments_alone():
    for family, size in itertools.product(FAMILIES, SIZES):
        first = puzzles(family, size, 5)
        puzzles(family, size, 2, seed=9)
        assert puzzles(family, size, 5) == first
        assert len({p.question for p in first}) > 1
        assert puzzles(family, size, 5, seed=1) != first


@pytest.mark.parametrize("family", FAMILIES)
def test_splits_are_disjoint_whatever_the_seeds_and_sizes(family):
    train = {p.question for size in SIZES for seed in (0, 1) for p in puzzles(family, size, 60, seed=seed)}
    held_out = {p.question for size in SIZES for p in puzzles(family, size, 30, seed=1, held_out=True)}
    assert not train & held_out
    assert len(held_out) > 50


def test_families_come_in_equal_shares():
    stream = [puzzle_at(i, families=list(FAMILIES), seed=2, size=1, held_out=False) for i in range(300)]
    counts = {family: sum(p.family == family for p in stream) for family in FAMILIES}
    assert min(counts.values()) > 25, counts


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"families": ["sudoku"]}, r"families must name some of \['morse_decode', .*got \['sudoku'\]"),
        ({"families": []}, r"families must name some of \['morse_decode', .*got \[\]"),
        ({"size": 0}, "size must be a whole number from 1 to 5, got 0"),
        ({"size": 6}, "size must be a whole number from 1 to 5, got 6"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        puzzle_at(0, **{"families": ["number_riddle"], "seed": 0, "size": 1, "held_out": False} | options)


def test_unknown_family_of_a_reply():
    with pytest.raises(ValueError, match=r"puzzle_family must be one of \['morse_decode'.*got 'sudoku'"):
        check("sudoku", {"text": "1"}, "1")


def test_morse_is_right():
    letters = set()
    for size in SIZES:
        for puzzle in [*puzzles("morse_decode", size, 40), *puzzles("morse_encode", size, 40)]:
            shown = puzzle.question.split("\n\n")[1]
            code, text = (shown, puzzle.answer) if puzzle.family == "morse_decode" else (puzzle.answer, shown)
            words = ["".join(map(read_morse, word.split(" "))) for word in code.split(" / ")]
            assert " ".join(words) == text
            assert len(words) == size
            letters |= set(text)
    assert len(letters) == 27, "every letter and the space"


LINKS = (
    ("the city where (.+) lives", "Person", "City"),
    ("the product that (.+) sells", "Person", "Sells"),
    ("the age of (.+)", "Person", "Age"),
    ("the mayor of (.+)", "City", "Mayor"),
    ("the main export of (.+)", "City", "Main export"),
    ("the population of (.+)", "City", "Population"),
    ("the inventor of (.+)", "Product", "Inventor"),
    ("the city where (.+) is made", "Product", "Made in"),
    ("the price of (.+)", "Product", "Price"),
)


def look_up(phrase, found):
    """The cells that lead from the name in a phrase to what it means by the tables."""
    for pattern, table, column in LINKS:
        match = re.fullmatch(pattern, phrase)
        if match:
            path = look_up(match[1], found)
            return [*path, found[table][path[-1]][column]]
    return [phrase]


def test_look_ups_lead_to_the_answer():
    for size in SIZES:
        for puzzle in puzzles("table_lookup", size, 40):
            found = tables(puzzle.question)
            assert len(found) == (2 if size < 3 else 3)
            phrase = re.search(r"\nWhat is (.+)\? Answer", puzzle.question)[1]
            path = look_up(phrase, found)
            assert (path[-1], len(path)) == (puzzle.answer, size + 1), puzzle
            assert len(set(path)) == len(path), "a chain that comes back has a short cut"


def meets(row, condition):
    column, sign, value = re.fullmatch(r"the (\w+) (is(?: not| more than| less than)?) (\w+)", condition).groups()
    cell = row[column.capitalize()]
    if sign in ("is", "is not"):
        return (cell == value) == (sign == "is")
    return int(cell) > int(value) if sign == "is more than" else int(cell) < int(value)


def test_aggregates_are_right_and_need_both_tables():
    totals = set()
    for size in SIZES:
        for puzzle in puzzles("table_aggregate", size, 40):
            found = tables(puzzle.question)
            rows = [order | found["Product"][order["Product"]] for order in found["Order"].values()]
            text, total = re.search(r"where (.+): (.+)\? Answer", puzzle.question).groups()
            conditions = text.split(" and ")
            kept = [row for row in rows if all(meets(row, condition) for condition in conditions)]
            times_price = "times price" in total
            amounts = [int(row["Quantity"]) * (int(row["Price"]) if times_price else 1) for row in kept]
            fold = len if "how many" in total else sum if "sum" in total else max
            assert int(puzzle.answer) == fold(amounts), puzzle
            assert (len(rows), len(conditions)) == (3 + 3 * size, 1 + size // 2)
            assert re.search("the (origin|price) is", text)
            for condition in conditions:
                others = [c for c in conditions if c != condition]
                assert sum(all(meets(row, c) for c in others) for row in rows) > len(kept) > 1, "no condition is idle"
            totals.add(total)
    assert len(totals) == 5


PLACES = {"units": 1, "tens": 10, "hundreds": 100, "thousands": 1000}


def fits(number, fact):
    """Whether a number meets one sentence of a riddle."""
    digits = [int(d) for d in str(number)]
    values = {place: number // unit % 10 for place, unit in PLACES.items()}
    product = 1
    for digit in digits:
        product *= digit
    by_pattern = {
        r"Its digits add up to (\d+)": lambda k: sum(digits) == int(k),
        r"The product of its digits is (\d+)": lambda k: product == int(k),
        r"Its largest digit is (\d)": lambda k: max(digits) == int(k),
        r"Its smallest digit is (\d)": lambda k: min(digits) == int(k),
        r"Number of different digits in it: (\d)": lambda k: len(set(digits)) == int(k),
        r"Number of odd digits in it: (\d)": lambda k: sum(d in (1, 3, 5, 7, 9) for d in digits) == int(k),
        r"The (\w+) digit is (\d)": lambda a, k: values[a] == int(k),
        r"The (\w+) digit is (\d) more than the (\w+) digit": lambda a, k, b: values[a] == values[b] + int(k),
        r"The (\w+) digit is (\d) less than the (\w+) digit": lambda a, k, b: values[a] == values[b] - int(k),
        r"The (\w+) digit equals the (\w+) digit": lambda a, b: values[a] == values[b],
        r"Divided by (\d+) it leaves a remainder of (\d+)": lambda k, r: number % int(k) == int(r),
        r"It is divisible by (\d+)": lambda k: number % int(k) == 0,
    }
    matches = [(test, re.fullmatch(pattern, fact)) for pattern, test in by_pattern.items()]
    (outcome,) = [test(*match.groups()) for test, match in matches if match]
    return outcome


@pytest.mark.parametrize("size", SIZES)
def test_riddles_have_one_answer(size):
    for puzzle in puzzles("number_riddle", size, 12 if size == 5 else 40):
        width, text = re.fullmatch(r"I am .+ number with (\d) digits\. (.+)\. What is .+", puzzle.question).groups()
        assert int(width) == (2, 2, 3, 3, 4)[size - 1]
        fitting = range(10 ** (int(width) - 1), 10 ** int(width))
        for fact in text.split(". "):
            fitting = [number for number in fitting if fits(number, fact)]
        assert fitting == [int(puzzle.answer)], puzzle


@pytest.mark.parametrize(
    ("family", "text", "reply", "right"),
    [
        ("morse_decode", "RIVER STONE", "river   stone.", True),
        ("morse_decode", "RIVER STONE", "RIVERSTONE", False),
        ("morse_encode", ".. / -", "..  /-", True),
        ("morse_encode", ".. / -", ". . / -", False),
        ("morse_encode", "- .", "- ..", False),
        ("morse_encode", "- .", "-", False),
        ("table_lookup", "Norwell", "norwell.", True),
        ("table_lookup", "52686", "52,686", True),
        ("table_lookup", "52686", "52686.0", True),
        ("table_lookup", "52686", "52,68,6", False),
        ("table_aggregate", "7", "007.", True),
        ("table_aggregate", "7", "7.01", False),
        ("table_aggregate", "7", "7/1", False),
        ("number_riddle", "42", "4 2", False),
        ("number_riddle", "42", "0" * 498 + "42", True),
        ("number_riddle", "42", "0" * 499 + "42", False),
        ("number_riddle", "42", "9" * 10**6, False),
        ("number_riddle", "42", "1e9999999", False),
        ("number_riddle", "42", "\u0664\u0662", False),
    ],
)
def test_what_may_differ_in_a_reply(family, text, reply, right):
    assert check(family, {"text": text}, reply) is right
