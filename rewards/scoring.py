"""The boundary around one reward call: whatever happens inside becomes a ``Score``, and a failure is never a zero."""

from __future__ import annotations

import asyncio
import inspect
import math
from dataclasses import replace

from rewards.base import declaration
from rl.errors import ToolMissingError
from rl.protocols import Judge, RewardFunction
from rl.types import Fault, Rollout, Score, Task


def evaluate(function: RewardFunction, task: Task, rollout: Rollout) -> Score:
    """Run a reward on one rollout, in this process and to its end.

    A reward that raises, runs out of memory or returns something else than a finite number in its declared range
    gives a ``Score`` with a ``fault``.
    """
    try:
        result = function(task, rollout)
        if inspect.iscoroutine(result):
            result = asyncio.run(result)
        score = result if isinstance(result, Score) else Score(value=float(result))
    except MemoryError:
        return Score.failed(Fault.MEMORY, "the reward asked for more memory than reward_pool.memory_mib allows")
    except ToolMissingError as error:
        return Score.failed(Fault.TOOL, str(error))
    except Exception as error:  # noqa: BLE001 - rewards are plugins: their faults are data
        return Score.failed(Fault.EXCEPTION, repr(error)[:500])
    if score.fault is not None:
        return score
    declared = declaration(function)
    lowest = score.value + sum(min(0.0, q.weight) for q in score.questions)
    highest = score.value + sum(max(0.0, q.weight) for q in score.questions)
    if not (math.isfinite(score.value) and declared.low - 1e-9 <= lowest and highest <= declared.high + 1e-9):
        return Score.failed(
            Fault.INVALID, f"value must be a number from {declared.low:g} to {declared.high:g}, got {score.value}"
        )
    return score


async def settle(score: Score, judge: Judge | None) -> Score:
    """Ask the judge what the reward left open, and add its answers to the score."""
    if score.fault is not None or not score.questions:
        return score
    if judge is None:
        return Score.failed(Fault.TOOL, f"task {score.questions[0].task.id} needs a judge, and none is configured")
    verdicts = await asyncio.gather(*(judge(question.task) for question in score.questions))
    answers = {q.name: v.value for q, v in zip(score.questions, verdicts, strict=True) if v.value is not None}
    if len(answers) < len(score.questions):
        return Score.failed(Fault.CRITIC, f"the judge answered {len(answers)} of {len(score.questions)} questions")
    gained = sum(q.weight * answers[q.name] for q in score.questions)
    return replace(
        score,
        value=score.value + gained,
        parts={**score.parts, "judged": sum(answers.values()) / len(answers)},
        questions=(),
        verdicts=answers,
        critic_version=max(v.version for v in verdicts),
    )
