"""Procedural coding tasks: write a one-line Python function. Each comes with unit tests that tell right from wrong.

The questions have the form that the starter policy was taught (``scripts/starter_mix.py``); the tests are made by
computing the right function on fixed inputs.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rl.procedural import is_held_out

_PAIRS = ((1, 2), (7, 3), (-4, 9), (5, 5), (0, -6), (120, 75))
_NUMBERS = (0, 1, 2, 7, -3, 40, 101)
_LISTS = ([3, 1, 2], [5], [-1, -7, 4, 4], [10, 20, 30, 40])
_WORDS = ("abc", "Hello", "x", "a b c")
_WORD_PAIRS = (("ab", "cd"), ("", "x"), ("one ", "two"), ("Z", ""))

INPUTS: dict[str, tuple[Any, ...]] = {
    "a, b": _PAIRS,
    "x": tuple((n,) for n in _NUMBERS),
    "n": tuple((n,) for n in _NUMBERS),
    "xs": tuple((xs,) for xs in _LISTS),
    "s": tuple((s,) for s in _WORDS),
    "s, t": _WORD_PAIRS,
}
"""Arguments to test with, by the function's parameters."""


@dataclass(frozen=True)
class Function:
    """One small function: its name, what it returns in words and as a Python expression."""

    name: str
    text: str
    params: str
    body: str

    @property
    def question(self) -> str:
        return f"Write {self.name}({self.params}): return {self.text}."

    def tests(self) -> list[str]:
        """One assertion per input."""
        compute: Callable[..., Any] = eval(f"lambda {self.params}: {self.body}")  # noqa: S307 - the constants below
        asserts = []
        for inputs in INPUTS[self.params]:
            arguments = ", ".join(map(repr, inputs))
            asserts.append(f"assert {self.name}({arguments}) == {compute(*inputs)!r}")
        return asserts


FUNCTIONS = tuple(
    Function(*row)
    for row in (
        ("add", "the sum of a and b", "a, b", "a + b"),
        ("sub", "a minus b", "a, b", "a - b"),
        ("mul", "the product of a and b", "a, b", "a * b"),
        ("double", "twice x", "x", "2 * x"),
        ("square", "x squared", "x", "x * x"),
        ("neg", "x with its sign changed", "x", "-x"),
        ("is_even", "whether n is even", "n", "n % 2 == 0"),
        ("is_odd", "whether n is odd", "n", "n % 2 == 1"),
        ("larger", "the larger of a and b", "a, b", "a if a > b else b"),
        ("smaller", "the smaller of a and b", "a, b", "a if a < b else b"),
        ("first", "the first item of xs", "xs", "xs[0]"),
        ("last", "the last item of xs", "xs", "xs[-1]"),
        ("total", "the sum of the list xs", "xs", "sum(xs)"),
        ("count", "how many items xs has", "xs", "len(xs)"),
        ("biggest", "the largest item of xs", "xs", "max(xs)"),
        ("backwards", "the string s reversed", "s", "s[::-1]"),
        ("shout", "the string s in capitals", "s", "s.upper()"),
        ("join", "the strings s and t joined", "s, t", "s + t"),
    )
)


def numbered_functions(k: int) -> tuple[Function, Function, Function]:
    """The functions made from the number k."""
    return (
        Function(f"add{k}", f"x plus {k}", "x", f"x + {k}"),
        Function(f"times{k}", f"x times {k}", "x", f"x * {k}"),
        Function(f"over{k}", f"whether x is more than {k}", "x", f"x > {k}"),
    )


def function_at(index: int, *, seed: int, held_out: bool) -> Function:
    """Function number ``index`` of an endless stream from one split; depends on its arguments alone.

    Held out are numbers of the numbered functions. The named ones are for training alone, because nothing that is
    learnt about one of them tells anything about another.
    """
    rng = random.Random(f"functions/{seed}/{held_out}/{index}")
    while True:
        named = not held_out and rng.random() < 0.5
        function = rng.choice(FUNCTIONS if named else numbered_functions(rng.randint(2, 99)))
        if named or is_held_out(function.question) == held_out:
            return function
