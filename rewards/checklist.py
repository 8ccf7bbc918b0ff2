"""The plain rubric judge: every criterion is one yes-or-no question, and a reply scores the share it satisfies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rewards.base import reward
from rl.templates import check_template, conversation
from rl.types import Question, Rollout, Score, Task

CHECKLIST_PROMPT = """\
A user asked:
{prompt}

An assistant replied:
{reply}

Does the reply satisfy this criterion: {criterion}
Answer yes or no."""


@reward(range=(0, 1))
def checklist(
    task: Task, rollout: Rollout, *, criteria: Sequence[str] | None = None, prompt: str = CHECKLIST_PROMPT
) -> Score:
    """The share of the criteria that a judge says the reply satisfies, from 0 to 1.

    Args:
        task: without ``criteria``, ``fields["criteria"]`` lists them: texts, or mappings with ``text`` and optionally
            ``weight`` (1).
        rollout: its last message is judged.
        criteria: the same criteria for every task, instead of the tasks' own.
        prompt: the question's text, with ``{criterion}`` and optionally ``{prompt}`` and ``{reply}``.

    Raises ``ValueError`` for a task without criteria, a criterion of another form, and a wrong template.

    """
    check_template(prompt, name="prompt", needs=("criterion",), may_have=("prompt", "reply"))
    asked = _criteria(task, criteria if criteria is not None else task.fields.get("criteria"))
    total = sum(weight for _, weight in asked)
    questions = (
        question(
            task,
            f"criterion/{number}",
            prompt.format(prompt=conversation(task), reply=rollout.completion, criterion=text),
            weight=weight / total,
        )
        for number, (text, weight) in enumerate(asked)
    )
    return Score(value=0.0, questions=tuple(questions))


def question(task: Task, name: str, text: str, *, weight: float) -> Question:
    """What the judge is asked about a reply to ``task``, as one user message."""
    asked = Task(id=f"{task.id}/{name}", kind="judge", messages=({"role": "user", "content": text},))
    return Question(name=name, task=asked, weight=weight)


def _criteria(task: Task, found: Any) -> list[tuple[str, float]]:
    """Texts and weights."""
    if isinstance(found, str) or not isinstance(found, Sequence) or not found:
        raise ValueError(
            f"task {task.id}: criteria must be a list of at least one criterion, got {found!r}; write them into the "
            "task's field criteria, or set reward.criteria"
        )
    return [_criterion(task, entry) for entry in found]


def _criterion(task: Task, entry: Any) -> tuple[str, float]:
    known = {"text": entry} if isinstance(entry, str) else entry
    if isinstance(known, Mapping) and set(known) <= {"text", "weight"}:
        text, weight = known.get("text"), known.get("weight", 1)
        if isinstance(text, str) and text.strip() and isinstance(weight, int | float) and 0 < weight < math.inf:
            return text, float(weight)
    raise ValueError(
        f"task {task.id}: a criterion must be a text, or a mapping with text and optionally a weight above 0, "
        f"got {entry!r}"
    )
