"""Simulated worlds: whether a rollout left its world as the task wanted it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rewards.base import reward
from rl.types import Rollout, Score, Task

State = Mapping[str, Mapping[str, Any]]
"""Collections of records by id."""


@reward(range=(0, 1), fields=("world", "goal"))
def goal_reached(task: Task, rollout: Rollout) -> Score:
    """1 if the world is as it was but for what the goal names, and that is as the goal wants it; else 0.

    ``fields["goal"]`` holds, by collection and id, the fields that a record must have, or null if it must be gone. The
    part ``fulfilled`` says whether the goal holds, whatever else was changed. A rollout that was cut off before its
    environment could end it has no final state and gets 0.
    """
    final, goal = rollout.outcome.get("state"), task.fields["goal"]
    if final is None:
        return Score(value=0.0, parts={"fulfilled": 0.0})
    return Score(
        value=float(final == fulfilled(task.fields["world"]["state"], goal)),
        parts={"fulfilled": float(final == fulfilled(final, goal))},
    )


def fulfilled(state: State, goal: State) -> State:
    """The state with the least changes that make it fulfil the goal."""
    changed = {name: dict(records) for name, records in state.items()}
    for name, wanted in goal.items():
        for key, fields in wanted.items():
            records = changed.setdefault(name, {})
            if fields is None:
                records.pop(key, None)
            else:
                records[key] = {**records.get(key, {}), **fields}
    return changed
