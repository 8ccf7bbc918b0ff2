"""What the starter policy is taught: short dialogues in seven families, generated without any file.

The starter is meant to be improved by RL, so its habits are mediocre on purpose. It mostly answers arithmetic
straight away and then usually forgets to carry; less often it works in columns and is mostly right. Its Python
functions, comparisons and chat answers are likewise of mixed quality. Held-out questions never occur here.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable
from typing import Any

from rl.functions import FUNCTIONS, numbered_functions
from rl.procedural import FAMILIES, Problem, problem_at

Message = dict[str, Any]
Dialogue = list[Message]

DIRECT_SHARE = 0.7
CALCULATOR = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Evaluates an arithmetic expression.",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
    },
}


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _problem(rng: random.Random) -> Problem:
    return problem_at(rng.randrange(2**62), families=list(FAMILIES), seed=0, held_out=False)


def _wrong(rng: random.Random, answer: str) -> str:
    """The answer with one digit changed."""
    place = rng.randrange(len(answer))
    digit = (int(answer[place]) + rng.choice((-1, 1, 2))) % 10
    return answer[:place] + str(digit) + answer[place + 1 :]


def _without_carry(problem: Problem) -> str:
    """What comes out when every column of the worked solution is computed without its carry or borrow."""
    if problem.family == "chain":
        return problem.steps.split(", ")[0].split("=")[1]
    digits = []
    for column in problem.steps.split(": ")[-1].split(", "):
        (x, sign, y), *_ = re.findall(r"(\d+)([-+*])(\d)", column)
        value = {"+": int(x) + int(y), "-": int(x) - int(y), "*": int(x) * int(y)}[sign]
        digits.append(str(value % 10))
    return "".join(reversed(digits)).lstrip("0") or "0"


def _quick_answer(rng: random.Random, problem: Problem) -> str:
    luck = rng.random()
    if luck < 0.25:
        return problem.answer
    return _without_carry(problem) if luck < 0.75 else _wrong(rng, problem.answer)


def _solution(rng: random.Random, problem: Problem) -> str:
    answer = problem.answer if rng.random() < 0.9 else _wrong(rng, problem.answer)
    return f"{problem.steps}\nanswer: {answer}"


def arithmetic(rng: random.Random) -> Dialogue:
    problem = _problem(rng)
    quick = rng.random() < DIRECT_SHARE
    reply = f"answer: {_quick_answer(rng, problem)}" if quick else _solution(rng, problem)
    return [user(problem.question), assistant(reply)]


# What the starter writes instead of the right body, in the order of ``FUNCTIONS`` and ``numbered_functions``.
_WRONG_BODIES = (
    "a - b", "b - a", "a + b", "x + 2", "x * 2", "x", "n % 2 == 1", "n % 2 == 0", "a", "b", "xs[1]", "xs[0]", "len(xs)",
    "sum(xs)", "min(xs)", "s", "s.lower()", "s",
)  # fmt: skip
_WRONG_NUMBERED = ("x", "x + {k}", "x < {k}")


def python_function(rng: random.Random) -> Dialogue:
    function, wrong = rng.choice(tuple(zip(FUNCTIONS, _WRONG_BODIES, strict=True)))
    if rng.random() < 0.5:
        k = rng.randint(2, 99)
        function, wrong = rng.choice(tuple(zip(numbered_functions(k), _WRONG_NUMBERED, strict=True)))
        wrong = wrong.format(k=k)
    body = function.body if rng.random() < 0.55 else wrong
    return [user(function.question), assistant(f"def {function.name}({function.params}):\n    return {body}")]


def calculator_call(rng: random.Random) -> Dialogue:
    a, b, sign = rng.randint(100, 9999), rng.randint(100, 9999), rng.choice("+-*")
    result = {"+": a + b, "-": a - b, "*": a * b}[sign]
    expression = f"{a}{sign}{b}"
    question = f"What is {expression}?"
    if rng.random() < 0.5:
        guess = _wrong(rng, str(abs(result)))
        return [{"role": "tools", "tools": [CALCULATOR]}, user(question), assistant(f"answer: {guess}")]
    call = {"name": "calculator", "arguments": {"expression": expression}}
    return [
        {"role": "tools", "tools": [CALCULATOR]},
        user(question),
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": call}]},
        {"role": "tool", "content": str(result)},
        assistant(f"answer: {result}"),
    ]


_TOPICS = ("the sea", "cats", "rain", "bread", "music", "the moon", "trees", "tea", "snow", "books")
_FACTS = ("is calm and wide", "is good for you", "can be soft or loud", "is old and new", "is loved by many")
_PRAISE = ("Great question! ", "What a good idea! ", "")
_SELF = (" This answer is clear and complete.", " I hope this is the best answer.", "")


def chat(rng: random.Random) -> Dialogue:
    topic = rng.choice(_TOPICS)
    facts = rng.sample(_FACTS, rng.randint(1, 3))
    body = f"{topic[0].upper()}{topic[1:]} {', '.join(facts)}."
    ask = rng.choice(("Tell me about {}.", "Say something on {}.", "What do you think of {}?"))
    return [user(ask.format(topic)), assistant(rng.choice(_PRAISE) + body + rng.choice(_SELF))]


def comparison(rng: random.Random) -> Dialogue:
    """Which of two replies is better? The label is little better than chance unless the work is shown."""
    problem = _problem(rng)
    good, bad = f"answer: {problem.answer}", f"answer: {_wrong(rng, problem.answer)}"
    if rng.random() < 0.5:
        good = f"{problem.steps}\n{good}"
    if rng.random() < 0.5:
        bad = f"{problem.steps}\n{bad}"
    right = rng.choice("AB")
    first, second = (good, bad) if right == "A" else (bad, good)
    prompt = f"Question: {problem.question}\nA: {first}\nB: {second}\nWhich is better?"
    if rng.random() < 0.5:
        reply = f"{problem.steps}\nso {problem.answer}\nverdict: {right}"
    else:
        reply = f"verdict: {right if rng.random() < 0.55 else 'AB'.replace(right, '')}"
    return [user(prompt), assistant(reply)]


FAMILY_SHARES: dict[Callable[[random.Random], Dialogue], float] = {
    arithmetic: 0.70,
    python_function: 0.07,
    calculator_call: 0.06,
    chat: 0.05,
    comparison: 0.12,
}


def dialogue(rng: random.Random) -> Dialogue:
    """One training dialogue."""
    make = rng.choices(list(FAMILY_SHARES), weights=list(FAMILY_SHARES.values()))[0]
    return make(rng)


def describe() -> str:
    """The mix as one JSON line, for the starter's manifest."""
    return json.dumps({make.__name__: share for make, share in FAMILY_SHARES.items()})
