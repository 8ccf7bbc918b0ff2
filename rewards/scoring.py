"""The boundary around rewards: a reward that fails is recorded as an error, never as a score of 0."""

from __future__ import annotations

import math

from rl.protocols import RewardFunction
from rl.types import EndReason, Rollout, Score, Task


def score(reward: RewardFunction, task: Task, rollout: Rollout) -> Score:
    """Run a reward on one rollout.

    A rollout that its environment spoiled, and a reward that raises or returns something that is not a finite
    number, give a ``Score`` whose ``error`` says why.
    """
    if rollout.end_reason is EndReason.ENV_ERROR:
        return Score(value=0.0, error=f"env: {rollout.error}")
    try:
        result = reward(task, rollout)
        result = result if isinstance(result, Score) else Score(value=float(result))
    except Exception as error:  # noqa: BLE001 - rewards are plugins: their faults are data
        return Score(value=0.0, error=f"reward: {error!r}")
    if not math.isfinite(result.value):
        return Score(value=0.0, error=f"reward: value must be finite, got {result.value}")
    return result
