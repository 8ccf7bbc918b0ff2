"""Questions that take a tool: arithmetic too large to do at once, and what a line of Python says about digits.

As in ``rl.procedural`` a question's text alone decides whether it is held out.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from rl.procedural import is_held_out


@dataclass(frozen=True, kw_only=True)
class ToolProblem:
    """A question, its answer, and the call that gives it."""

    family: str
    question: str
    answer: str
    tool: str
    arguments: Mapping[str, str]


def calculation(rng: random.Random) -> ToolProblem:
    """A sum, difference or product of two numbers of three or four digits."""
    b, a = sorted((rng.randint(100, 9999), rng.randint(100, 9999)))
    sign = rng.choice("+-*")
    result = {"+": a + b, "-": a - b, "*": a * b}[sign]
    return ToolProblem(
        family="calculation",
        question=f"What is {a}{sign}{b}?",
        answer=str(result),
        tool="calculator",
        arguments={"expression": f"{a}{sign}{b}"},
    )


def digits(rng: random.Random) -> ToolProblem:
    """The digit sum of a number, its reverse, or how often a digit is in it."""
    number, digit = str(rng.randint(10**4, 10**8)), str(rng.randint(0, 9))
    question, code, result = rng.choice(
        (
            (f"What is the digit sum of {number}?", f"sum(map(int, '{number}'))", sum(map(int, number))),
            (f"What is {number} backwards?", f"'{number}'[::-1]", number[::-1]),
            (f"How often is {digit} in {number}?", f"'{number}'.count('{digit}')", number.count(digit)),
        )
    )
    return ToolProblem(
        family="digits",
        question=question,
        answer=str(result),
        tool="python",
        arguments={"code": f"print({code})"},
    )


def tool_problem_at(index: int, *, seed: int, held_out: bool) -> ToolProblem:
    """Problem number ``index`` of an endless stream, three of five a calculation, all from one split."""
    rng = random.Random(f"tools/{seed}/{held_out}/{index}")
    make = calculation if rng.random() < 0.6 else digits
    while True:
        problem = make(rng)
        if is_held_out(problem.question) == held_out:
            return problem
