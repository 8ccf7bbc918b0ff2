"""Several questions in one conversation: how many were answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rewards.base import reward
from rewards.math import EXTRACTORS, math_answer
from rl.types import Rollout, Task


@reward(range=(0, 1), fields=("answers",))
def share_right(task: Task, rollout: Rollout, *, extract: Sequence[str] = EXTRACTORS, marker: str = "answer:") -> float:
    """The share of ``task.fields["answers"]`` that the policy's replies have, each in its turn (``math_answer``)."""
    replies = [m for m in rollout.messages if m["role"] == "assistant"]
    answers = task.fields["answers"]
    turns = [
        (replace(task, fields={"answer": answer}), replace(rollout, messages=(reply,)))
        for answer, reply in zip(answers, replies, strict=False)
    ]
    return sum(math_answer(*turn, extract=extract, marker=marker).value for turn in turns) / len(answers)
