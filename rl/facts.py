"""Open-ended tasks without a verifier: say something about a number.

How true a reply is can be computed, for the quickstart's measurements alone; training never sees it.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from rl.procedural import is_held_out

_ASK = ("Tell me about {}.", "Say something about {}.", "What do you know about {}?", "Tell me a fact about {}.")
_CLAIM = re.compile(r"(\d+) (is odd|is even|is over \d+|is under \d+|starts with \d|ends in \d)\.")


@dataclass(frozen=True)
class Claim:
    """One statement about a two-digit number, true or not."""

    number: int
    said: str

    @property
    def holds(self) -> bool:
        *words, last = self.said.split()
        match words:
            case ["is"]:
                return (self.number % 2 == 1) == (last == "odd")
            case ["is", "over"]:
                return self.number > int(last)
            case ["is", "under"]:
                return self.number < int(last)
            case ["starts", "with"]:
                return str(self.number)[0] == last
            case _:
                return str(self.number)[-1] == last

    def __str__(self) -> str:
        return f"{self.number} {self.said}."


def question_at(index: int, *, seed: int, held_out: bool) -> tuple[str, int]:
    """Question number ``index`` of an endless stream from one split, and the number that it is about."""
    rng = random.Random(f"facts/{seed}/{held_out}/{index}")
    while True:
        number = rng.randint(10, 99)
        question = rng.choice(_ASK).format(number)
        if is_held_out(question) == held_out:
            return question, number


def claim_about(number: int, rng: random.Random, *, true: bool) -> Claim:
    """A random statement about a number, true or false as asked."""
    while True:
        said = rng.choice(
            (
                rng.choice(("is odd", "is even")),
                f"is over {rng.randint(10, 99)}",
                f"is under {rng.randint(10, 99)}",
                f"starts with {rng.randint(1, 9)}",
                f"ends in {rng.randint(0, 9)}",
            )
        )
        claim = Claim(number, said)
        if claim.holds == true:
            return claim


def claims(text: str) -> tuple[list[Claim], str]:
    """The statements in a text, and what is left of it without them."""
    found = [Claim(int(number), said) for number, said in _CLAIM.findall(text)]
    return found, " ".join(_CLAIM.sub("", text).split())
