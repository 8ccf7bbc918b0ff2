"""What a reward is: one function ``(task, rollout) -> float | Score``, and what it declares about itself.

    @reward(range=(0, 1), fields=("answer",))
    def exact(task, rollout):
        return float(rollout.completion.strip() == task.fields["answer"])

Settings are keyword arguments of the function (``reward.marker=...`` in the configuration); a reward with state to
build once may be a class whose instances are called. ``async def`` works too. Rewards run in processes of their own
(``rewards.pool``), so they may be slow, crash or hang without harm to the run.
"""

from __future__ import annotations

import builtins
import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from rl.plugins import build
from rl.protocols import RewardFunction
from rl.types import Task

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What a reward says about itself: the range of its values and the task fields it reads."""

    low: float = 0.0
    high: float = 1.0
    fields: tuple[str, ...] = ()


def reward(*, range: tuple[float, float] = (0.0, 1.0), fields: Sequence[str] = ()) -> Callable[[F], F]:  # noqa: A002
    """Declare a reward's range and the ``task.fields`` that it needs.

    Values outside the range are faults and not scores; tasks without the fields are refused before a run starts.
    """
    low, high = map(float, range)
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"range must be two finite numbers, the lower one first, got {range}")

    def declare(function: F) -> F:
        function.declaration = Declaration(low=low, high=high, fields=tuple(fields))  # type: ignore[attr-defined]
        return function

    return declare


def declaration(function: RewardFunction) -> Declaration:
    """What the reward declares; a function without ``@reward`` has the range 0 to 1 and needs no field."""
    while isinstance(function, functools.partial):
        function = function.func
    found = getattr(function, "declaration", Declaration())
    assert isinstance(found, Declaration)
    return found


def build_reward(spec: Mapping[str, Any], *, name: str = "reward") -> RewardFunction:
    """The reward that a configuration names: a function with its settings, or an instance of a class.

    ``_target_`` is a dotted path, or the name of an installed plugin (entry point ``closedloop.rewards``). Raises
    ``ValueError`` if there is no such thing or it rejects the settings.
    """
    prepared = build(spec, name=name, partial=True)
    if isinstance(prepared.func, builtins.type):
        return build(spec, name=name)  # type: ignore[no-any-return]
    try:
        inspect.signature(prepared.func).bind(None, None, **prepared.keywords)
    except TypeError as error:
        raise ValueError(f"{name}: {prepared.func.__name__} must take these settings: {error}") from error
    return prepared  # type: ignore[no-any-return]


def check_fields(function: RewardFunction, tasks: Sequence[Task]) -> None:
    """Raise ``ValueError`` for the first task that lacks a field which the reward declares."""
    needs: Callable[[Task], Sequence[str]] = getattr(function, "fields_for", lambda _task: declaration(function).fields)
    for task in tasks:
        missing = [field for field in needs(task) if field not in task.fields]
        if missing:
            raise ValueError(
                f"task {task.id}: the reward needs the fields {', '.join(missing)}, but the task has "
                f"{', '.join(sorted(task.fields)) or 'none'}; map them in tasks.*.fields"
            )
