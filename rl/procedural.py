"""Procedural arithmetic and word problems: an endless, verifiable task source that needs no files.

Every problem carries its question, its exact answer, and a worked solution in short column steps. The
solutions are what the starter policy was taught (``scripts/make_starter.py``); the questions are the
quickstart's tasks. Whether a question is held out follows from its text alone, so the training and the
held-out split are disjoint whatever the seeds.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

HELD_OUT_PERCENT = 10


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One question with its answer (decimal digits) and a worked solution (one line, no final answer)."""

    family: str
    question: str
    answer: str
    steps: str


def is_held_out(question: str, *, percent: int = HELD_OUT_PERCENT) -> bool:
    """Whether a question belongs to the held-out split (about ``percent`` of all questions)."""
    return zlib.crc32(question.encode()) % 100 < percent


def _digits(value: int, width: int) -> list[int]:
    return [value // 10**i % 10 for i in range(width)]


def add_steps(a: int, b: int) -> str:
    """Column addition, units first: ``47+38`` gives ``7+8=15, 4+3+1=8``."""
    width = max(len(str(a)), len(str(b)))
    carry, parts = 0, []
    for x, y in zip(_digits(a, width), _digits(b, width), strict=True):
        total = x + y + carry
        parts.append(f"{x}+{y}{'+1' if carry else ''}={total}")
        carry = total // 10
    return ", ".join(parts)


def sub_steps(a: int, b: int) -> str:
    """Column subtraction for a >= b, units first: ``83-47`` gives ``13-7=6, 8-4-1=3``."""
    width = len(str(a))
    borrow, parts = 0, []
    for x, y in zip(_digits(a, width), _digits(b, width), strict=True):
        rest = x - y - borrow
        parts.append(f"{x + 10 if rest < 0 else x}-{y}{'-1' if borrow else ''}={rest % 10}")
        borrow = int(rest < 0)
    return ", ".join(parts)


def mul_steps(a: int, b: int) -> str:
    """Column multiplication by one digit, units first: ``47*6`` gives ``7*6=42, 4*6+4=28``."""
    carry, parts = 0, []
    for x in _digits(a, len(str(a))):
        total = x * b + carry
        parts.append(f"{x}*{b}{f'+{carry}' if carry else ''}={total}")
        carry = total // 10
    return ", ".join(parts)


_ASK = ("What is {}?", "Compute {}.", "{} = ?", "Calculate {}.")


def _ask(rng: random.Random, expression: str) -> str:
    return rng.choice(_ASK).format(expression)


def add(rng: random.Random) -> Problem:
    """Sum of two numbers of two or three digits."""
    top = rng.choice((99, 999))
    a, b = rng.randint(10, top), rng.randint(10, top)
    return Problem(family="add", question=_ask(rng, f"{a}+{b}"), answer=str(a + b), steps=add_steps(a, b))


def subtract(rng: random.Random) -> Problem:
    """Difference of two numbers of two or three digits, never negative."""
    top = rng.choice((99, 999))
    b, a = sorted((rng.randint(10, top), rng.randint(10, top)))
    return Problem(family="subtract", question=_ask(rng, f"{a}-{b}"), answer=str(a - b), steps=sub_steps(a, b))


def multiply(rng: random.Random) -> Problem:
    """A number of two or three digits times one digit."""
    a, b = rng.randint(10, rng.choice((99, 999))), rng.randint(2, 9)
    return Problem(family="multiply", question=_ask(rng, f"{a}*{b}"), answer=str(a * b), steps=mul_steps(a, b))


def chain(rng: random.Random) -> Problem:
    """Three or four one-digit numbers joined by plus and minus; every partial result is at least zero."""
    total = rng.randint(1, 9)
    expression, parts = str(total), []
    for _ in range(rng.randint(2, 3)):
        step = rng.randint(1, 9)
        sign = "-" if step <= total and rng.random() < 0.5 else "+"
        result = total + step if sign == "+" else total - step
        parts.append(f"{total}{sign}{step}={result}")
        expression += f"{sign}{step}"
        total = result
    return Problem(family="chain", question=_ask(rng, expression), answer=str(total), steps=", ".join(parts))


_NAMES = ("Ann", "Ben", "Eva", "Leo", "Mia", "Sam", "Tom", "Zoe")
_THINGS = ("apples", "books", "cards", "coins", "eggs", "nuts", "pens", "shells")
_GAIN = (
    "{n} has {a} {t} and gets {b} more. How many {t} does {n} have?",
    "{n} finds {a} {t}, then {b} more {t}. How many in all?",
)
_LOSS = (
    "{n} has {a} {t} and gives away {b}. How many {t} are left?",
    "There are {a} {t}. {n} takes {b}. How many {t} remain?",
)
_TIMES = (
    "{n} has {b} boxes of {a} {t}. How many {t} in all?",
    "{n} buys {a} {t} on each of {b} days. How many {t} is that?",
)


def word(rng: random.Random) -> Problem:
    """A one-step word problem: a sum or difference up to two digits, or a product by one digit."""
    n, t = rng.choice(_NAMES), rng.choice(_THINGS)
    kind = rng.randrange(3)
    if kind == 0:
        a, b = rng.randint(10, 99), rng.randint(10, 99)
        text, result, steps = rng.choice(_GAIN), a + b, f"{a}+{b}: {add_steps(a, b)}"
    elif kind == 1:
        b, a = sorted((rng.randint(10, 99), rng.randint(10, 99)))
        text, result, steps = rng.choice(_LOSS), a - b, f"{a}-{b}: {sub_steps(a, b)}"
    else:
        a, b = rng.randint(10, 99), rng.randint(2, 9)
        text, result, steps = rng.choice(_TIMES), a * b, f"{a}*{b}: {mul_steps(a, b)}"
    return Problem(family="word", question=text.format(n=n, t=t, a=a, b=b), answer=str(result), steps=steps)


FAMILIES: dict[str, Callable[[random.Random], Problem]] = {
    "add": add,
    "subtract": subtract,
    "multiply": multiply,
    "chain": chain,
    "word": word,
}


def problem_at(index: int, *, families: Sequence[str], seed: int, held_out: bool) -> Problem:
    """Problem number ``index`` of an endless stream: families in equal shares, all from one split.

    It depends on its arguments alone, so a stream's position is one integer. Raises ``ValueError`` for an
    unknown family.
    """
    unknown = sorted(set(families) - set(FAMILIES))
    if unknown or not families:
        raise ValueError(f"families must name some of {sorted(FAMILIES)}, got {list(families)}")
    rng = random.Random(f"{seed}/{held_out}/{index}")
    make = FAMILIES[rng.choice(list(families))]
    while True:
        problem = make(rng)
        if is_held_out(problem.question) == held_out:
            return problem
