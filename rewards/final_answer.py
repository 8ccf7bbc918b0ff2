"""Reward: 1 if the reply's final answer equals the reference, else 0."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation

from rl.types import Rollout, Score, Task

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def final_answer(task: Task, rollout: Rollout, *, marker: str = "answer:") -> Score:
    """Compare what follows the last ``marker`` with ``task.fields["answer"]``. Range 0 to 1.

    Numbers are compared by value ("1,200" equals "1200.0"), anything else as text without case and outer space. A
    reply without the marker, with text behind the answer's line, or cut by its budget is wrong.
    """
    wanted = str(task.fields["answer"])
    said = rollout.completion.rpartition(marker)
    found = said[2].strip() if said[1] else None
    return Score(
        value=float(found is not None and _same(found, wanted)), parts={"has_answer": float(found is not None)}
    )


def _same(found: str, wanted: str) -> bool:
    left, right = _number(found), _number(wanted)
    if left is not None and right is not None:
        return left == right
    return found.casefold() == wanted.strip().casefold()


def _number(text: str) -> Decimal | None:
    text = text.strip().rstrip(".").replace("$", "")
    if not _NUMBER.fullmatch(text):
        return None
    try:
        return Decimal(text.replace(",", ""))
    except InvalidOperation:
        return None
