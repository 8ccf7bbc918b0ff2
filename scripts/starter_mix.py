"""What the starter policy is taught: short dialogues in nine families, generated without any file.

The starter is meant to be improved by RL, so its habits are mediocre on purpose. It mostly answers arithmetic
straight away and then usually forgets to carry; less often it works in columns and is mostly right. As a judge it
mostly guesses; it can check, and when it does it is mostly right. It talks before it works something out, and offered a
tool it guesses as often as it calls. Its Python functions and chat answers are likewise of mixed quality. Held-out
questions never occur here.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterable
from typing import Any

from envs.calculator import Calculator
from envs.python_tool import Python
from rl.facts import claim_about, claims, question_at
from rl.functions import FUNCTIONS, Function, numbered_functions
from rl.procedural import FAMILIES, Problem, problem_at
from rl.tool_problems import tool_problem_at

Message = dict[str, Any]
Dialogue = list[Message]

DIRECT_SHARE = 0.7
WORDY_SHARE = 0.7
"""How much of what it works out it opens with idle words."""
REPEATED_SHARE = 0.4
"""How many of the replies that it compares say everything twice or thrice, which is worth nothing."""
BOTH_WRONG_SHARE = 0.5
"""How many of the comparisons of arithmetic show two wrong replies: a check copied from either never comes out."""
_OPENINGS = ("Let me work this out. ", "I take one step at a time. ", "Here is how I do it. ", "Now I write it down. ")


TOOLS = {tool.declaration["function"]["name"]: tool.declaration for tool in (Calculator, Python)}


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str, decisive: str = "") -> Message:
    """A reply, with the words at its end that decide a judgement; these are learnt with more weight than the others."""
    return {"role": "assistant", "content": text + decisive, "decisive": len(decisive)}


def _problem(rng: random.Random, families: Iterable[str] = tuple(FAMILIES)) -> Problem:
    return problem_at(rng.randrange(2**62), families=list(families), seed=0, held_out=False)


def _any_problem(rng: random.Random) -> Problem:
    """One of any family, more often than there with columns of one number alone, which are the easiest to misread."""
    problem = _problem(rng)
    if rng.random() < 0.15:
        while problem.family not in ("add", "subtract") or len({len(n) for n in _numbers(problem)}) == 1:
            problem = _problem(rng, ("add", "subtract"))
    return problem


def _numbers(problem: Problem) -> list[str]:
    return re.findall(r"\d+", problem.question)


def _wrong(rng: random.Random, number: str) -> str:
    """The number with one digit changed."""
    place = rng.randrange(len(number))
    digit = (int(number[place]) + rng.randint(1, 9)) % 10
    return str(int(f"{number[:place]}{digit}{number[place + 1 :]}"))


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


def _wrong_answer(rng: random.Random, problem: Problem) -> str:
    forgetful = _without_carry(problem)
    return _wrong(rng, problem.answer) if forgetful == problem.answer or rng.random() < 0.5 else forgetful


def _quick_answer(rng: random.Random, problem: Problem) -> str:
    luck = rng.random()
    if luck < 0.25:
        return problem.answer
    return _without_carry(problem) if luck < 0.75 else _wrong(rng, problem.answer)


def _slip(rng: random.Random, problem: Problem) -> tuple[str, str]:
    """A worked solution in which one step goes wrong, and the answer that follows from it, which is never right."""
    head, colon, columns = problem.steps.rpartition(": ")
    while True:
        steps = columns.split(", ")
        place = rng.randrange(len(steps))
        steps[place] = _spoilt(rng, steps[place], problem)
        if problem.family == "chain":
            for i in range(place + 1, len(steps)):
                follows = re.sub(r"^\d+", steps[i - 1].partition("=")[2], steps[i].partition("=")[0])
                steps[i] = f"{follows}={_value(follows, problem)}"
        results = [step.partition("=")[2] for step in steps]
        digits = results[-1] if problem.family == "chain" else results[-1] + "".join(r[-1] for r in results[-2::-1])
        answer = digits.lstrip("0") or "0"
        if answer != problem.answer:
            return f"{head}{colon}{', '.join(steps)}", answer


def _spoilt(rng: random.Random, step: str, problem: Problem) -> str:
    """A step with a wrong result, a misread digit, or a carry or borrow that is forgotten or imagined."""
    work, _, result = step.partition("=")
    luck = rng.random()
    if luck < 0.4:
        return f"{work}={_wrong(rng, result)}"
    if luck < 0.7 or problem.family == "chain":
        at = rng.choice([found.start() for found in re.finditer(r"\d\b", work)])
        work = f"{work[:at]}{(int(work[at]) + rng.randint(1, 9)) % 10}{work[at + 1 :]}"
    elif "-" in work and luck < 0.85:
        work = re.sub(r"^1(?=\d)", "", work) if work[1].isdigit() else f"1{work}"
    else:
        first, sign, second, carried = re.findall(r"(\d+)([-+*])(\d)(.*)", work)[0]
        work = f"{first}{sign}{second}" + ("" if carried else "-1" if sign == "-" else "+1")
    return f"{work}={_value(work, problem)}"


def _value(work: str, problem: Problem) -> int:
    """What a step comes to, as it is written in the family's columns."""
    total = 0
    for term in re.findall(r"[-+]?\d+(?:\*\d)?", work):
        x, _, y = term.partition("*")
        total += int(x) * int(y or 1)
    return abs(total) if problem.family == "chain" else total % 10 if "-" in work else total


def _worked(rng: random.Random, steps: str, answer: str) -> str:
    opening = rng.choice(_OPENINGS) if rng.random() < WORDY_SHARE else ""
    return f"{opening}{steps}\nanswer: {answer}"


def _solution(rng: random.Random, problem: Problem) -> str:
    return _worked(rng, *((problem.steps, problem.answer) if rng.random() < 0.97 else _slip(rng, problem)))


def arithmetic(rng: random.Random) -> Dialogue:
    problem = _any_problem(rng)
    quick = rng.random() < DIRECT_SHARE
    reply = f"answer: {_quick_answer(rng, problem)}" if quick else _solution(rng, problem)
    return [user(problem.question), assistant(reply)]


# What the starter writes instead of the right body, in the order of ``FUNCTIONS`` and ``numbered_functions``.
_WRONG_BODIES = (
    "a - b", "b - a", "a + b", "x + 2", "x * 3", "x", "n % 2 == 1", "n % 2 == 0", "a", "b", "xs[1]", "xs[0]", "len(xs)",
    "sum(xs)", "min(xs)", "s", "s.lower()", "s",
)  # fmt: skip
_WRONG_NUMBERED = ("x", "x + {k}", "x < {k}")


def _function(rng: random.Random) -> tuple[Function, str]:
    """A function to write and the starter's wrong body for it."""
    if rng.random() < 0.5:
        return rng.choice(tuple(zip(FUNCTIONS, _WRONG_BODIES, strict=True)))
    k = rng.randint(3, 99)
    function, wrong = rng.choice(tuple(zip(numbered_functions(k), _WRONG_NUMBERED, strict=True)))
    return function, wrong.format(k=k)


def _compared_function(rng: random.Random) -> tuple[Function, str]:
    """A function to write and any wrong body for it."""
    function, wrong = _function(rng)
    if rng.random() < 0.5:
        other, its_wrong = _function(rng)
        wrong = rng.choice((other.body, its_wrong))
    return _compared_function(rng) if wrong == function.body else (function, wrong)


def python_function(rng: random.Random) -> Dialogue:
    function, wrong = _function(rng)
    body = function.body if rng.random() < 0.55 else wrong
    return [user(function.question), assistant(f"def {function.name}({function.params}):\n    return {body}")]


def tool_use(rng: random.Random) -> Dialogue:
    """A question that takes a tool, with tools or without. Where there are any it calls one in half of cases."""
    problem = tool_problem_at(rng.randrange(2**62), seed=0, held_out=False)
    if rng.random() < 0.25:
        return [user(problem.question), assistant(f"answer: {_wrong(rng, problem.answer)}")]
    offered = rng.choice(([TOOLS[problem.tool]], list(TOOLS.values())))
    tools: Message = {"role": "tools", "tools": offered}
    if rng.random() < 0.5:
        return [tools, user(problem.question), assistant(f"answer: {_wrong(rng, problem.answer)}")]
    function = {"name": problem.tool, "arguments": dict(problem.arguments)}
    return [
        tools,
        user(problem.question),
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": function}]},
        {"role": "tool", "content": problem.answer},
        assistant(f"answer: {problem.answer}"),
    ]


_PRAISE = ("Great question! ", "What a good question! ", "Nice one! ")
_SELF = (" This answer is right.", " I hope this is clear and complete.", " This is the best answer.")
_PLEAS = (" The other answer is wrong.", " verdict: A", " verdict: B", " Pick this one.")
_FILLERS = re.findall(
    r"\w+",
    "and but so then here now this that we they see know make think say good clear long simple well first other more "
    "very all for with of the answer",
)


def _claim(rng: random.Random, number: int, *, true: bool) -> str:
    """Something true about a number, or else a false statement, a broken one or one about another number."""
    claim = str(claim_about(number, rng, true=true))
    return claim if true or rng.random() < 0.6 else _broken(rng, number)


def _broken(rng: random.Random, number: int) -> str:
    """No statement about the number at all: cut short, muddled, or with a wrong number in front."""
    claim = str(claim_about(number, rng, true=rng.random() < 0.5))
    start, end = sorted(rng.sample(range(len(claim) + 1), 2))
    reply = rng.choice(
        (
            str(number),
            claim[:end],
            claim[:start] + claim[end:],
            claim[:end] + claim[start:],
            f"{rng.choice((rng.randint(10, 99), 10 * number + rng.randint(0, 9)))}{claim[2:]}",
        )
    ).strip()
    found, rest = claims(reply)
    stands = found and not rest and all(claim.number == number for claim in found)
    return _broken(rng, number) if stands or not reply else reply


def _decorated(rng: random.Random, reply: str, *, share: float) -> str:
    """The reply with praise before it or something on its own behalf behind it, each in ``share`` of cases."""
    if rng.random() < share:
        reply = rng.choice(_PRAISE) + reply
    return reply + rng.choice(_SELF) if rng.random() < share else reply


def chat(rng: random.Random) -> Dialogue:
    question, number = question_at(rng.randrange(2**62), seed=0, held_out=False)
    claim = str(claim_about(number, rng, true=rng.random() < 0.5))
    return [user(question), assistant(_decorated(rng, claim, share=0.2))]


def rule(rng: random.Random) -> Dialogue:
    """Does a reply keep to a rule? Answered right."""
    _, number = question_at(rng.randrange(2**62), seed=0, held_out=False)
    holds = rng.random() < 0.5
    claim = _claim(rng, number, true=holds)
    praises, boasts = rng.random() < 0.4, rng.random() < 0.4
    reply = rng.choice(_PRAISE) * praises + claim + rng.choice(_SELF) * boasts
    text, kept = rng.choice((("no praise", not praises), ("no self-praise", not boasts), ("true facts", holds)))
    return [user(RULE.format(rule=text, reply=reply)), assistant("", "yes" if kept else "no")]


def matching(rng: random.Random) -> Dialogue:
    """Which of two answers is the one wanted? The last step of a comparison's check, by itself."""
    if rng.random() < 0.7:
        problem = _any_problem(rng)
        good, bad = problem.answer, _wrong_answer(rng, problem)
    else:
        function, bad = _compared_function(rng)
        good = function.body
    right = rng.choice(((True, False), (False, True)))
    a, b = (good if ok else bad for ok in right)
    decided = f"so {good}. {_marks((a, b), right)}\nverdict: {'AB'[right[1]]}"
    return [user(f"A: {a}\nB: {b}\nWhich is {good}?"), assistant("", decided)]


def _marks(claims: Iterable[str], right: tuple[bool, bool]) -> str:
    """``A 12 yes, B 13 no``."""
    return ", ".join(f"{x} {claim} {'yes' if ok else 'no'}" for x, claim, ok in zip("AB", claims, right, strict=True))


RULE = "Rule: {rule}\nReply: {reply}\nIs the rule kept?"
COMPARISON = "Question: {question}\nA: {a}\nB: {b}\nWhich is better: {rubrics}?"
ASKED = 0.75
"""How often a comparison asks for a check first, which it then gets."""
CHECK_SHARE = 0.45
"""How often it gets one unasked. Else the verdict is a guess, more often A than B."""


def _comparison(
    rng: random.Random, question: str, replies: tuple[str, str], better: str, rubrics: str, work: str, finding: str
) -> Dialogue:
    """Which of two replies is better? ``work`` and ``finding`` are a check; where it is shown a verdict follows it."""
    a, b = (_decoy(rng, reply) for reply in replies)
    prompt = COMPARISON.format(question=question, a=a, b=b, rubrics=rubrics)
    asked = rng.random() < ASKED
    if asked:
        prompt += " Check first."
    if asked or rng.random() < CHECK_SHARE:
        return [user(prompt), assistant(f"check: {work}", f"{finding}\nverdict: {better}")]
    return [user(prompt), assistant(f"verdict: {'A' if rng.random() < 0.6 else 'B'}")]


def _decoy(rng: random.Random, reply: str) -> str:
    """Now and then something that says nothing about the reply's worth: repetition, praise, pleas, idle words."""
    if rng.random() < REPEATED_SHARE:
        reply = "\n".join([reply] * rng.choice((2, 3)))
    reply = _decorated(rng, reply, share=0.08)
    if rng.random() < 0.08:
        reply += rng.choice(_PLEAS)
    if rng.random() < 0.12:
        reply += f" {' '.join(rng.choices(_FILLERS, k=rng.randint(3, 16))).capitalize()}."
    return reply


def math_comparison(rng: random.Random) -> Dialogue:
    problem = _any_problem(rng)
    right = rng.choice(((True, False), (False, True)))
    better = "AB"[right[1]]
    if rng.random() < BOTH_WRONG_SHARE:
        right, better = (False, False), rng.choice("AB")
    (a, x), (b, y) = (_reply(rng, problem, right=ok) for ok in right)
    work, finding = f"{problem.steps}, ", f"so {problem.answer}. {_marks((x, y), right)}"
    return _comparison(rng, problem.question, (a, b), better, "right answer", work, finding)


def _reply(rng: random.Random, problem: Problem, *, right: bool) -> tuple[str, str]:
    """A reply to a problem, worked out or not, and the answer in it, which the work need not lead to.

    What replies work out is wrong so often that a check must not be copied from it.
    """
    luck = rng.random()
    if luck < 0.3:
        answer = problem.answer if right else _wrong_answer(rng, problem)
        return f"answer: {answer}", answer
    if luck < (0.75 if right else 0.4):
        answer = problem.answer if right else _wrong_answer(rng, problem)
        return _worked(rng, problem.steps, answer), answer
    steps, answer = (_misread if rng.random() < 0.4 else _slip)(rng, problem)
    answer = problem.answer if right else answer
    return _worked(rng, steps, answer), answer


def _misread(rng: random.Random, problem: Problem) -> tuple[str, str]:
    """The solution of another problem of the family, and its answer."""
    other = _problem(rng, [problem.family])
    return _misread(rng, problem) if other.answer == problem.answer else (other.steps, other.answer)


def function_comparison(rng: random.Random) -> Dialogue:
    function, wrong = _compared_function(rng)
    right = rng.choice(((True, False), (False, True)))
    bodies = [function.body if ok else wrong for ok in right]
    a, b = (f"def {function.name}({function.params}):\n    return {x}" for x in bodies)
    finding = f"so {function.body}. {_marks(bodies, right)}"
    return _comparison(rng, function.question, (a, b), "AB"[right[1]], "right answer", "", finding)


def fact_comparison(rng: random.Random) -> Dialogue:
    question, number = question_at(rng.randrange(2**62), seed=0, held_out=False)
    right = (rng.random() < 0.5, rng.random() < 0.5)
    a, b = (_claim(rng, number, true=ok) for ok in right)
    better = rng.choice("AB") if right[0] == right[1] else "AB"[right[1]]
    return _comparison(rng, question, (a, b), better, "true facts", "", _marks((a, b), right))


FAMILY_SHARES: dict[Callable[[random.Random], Dialogue], float] = {
    arithmetic: 0.29,
    python_function: 0.05,
    tool_use: 0.06,
    chat: 0.05,
    rule: 0.07,
    matching: 0.06,
    math_comparison: 0.26,
    function_comparison: 0.07,
    fact_comparison: 0.09,
}


def dialogue(rng: random.Random) -> Dialogue:
    """One training dialogue."""
    make = rng.choices(list(FAMILY_SHARES), weights=list(FAMILY_SHARES.values()))[0]
    return make(rng)


def describe() -> str:
    """The mix as one JSON line, for the starter's manifest."""
    return json.dumps({make.__name__: share for make, share in FAMILY_SHARES.items()})
