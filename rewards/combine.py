"""Several rewards as one: weighted, chosen by the kind of task, and gated."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from rewards.base import Declaration, build_reward, declaration
from rl.protocols import RewardFunction
from rl.types import Question, Rollout, Score, Task


@dataclass(frozen=True)
class _Part:
    name: str
    reward: RewardFunction
    weight: float
    kinds: tuple[str, ...] | None
    gate: bool

    def serves(self, task: Task) -> bool:
        return self.kinds is None or task.kind in self.kinds


class Combined:
    """Weighted sum of the parts that serve the task's kind, or 0 if one of its gates is closed.

    Args:
        parts: by name, each with ``reward`` (a mapping with ``_target_``), and optionally ``weight`` (1), ``kinds``
            (all kinds) and ``gate`` (false). A gate adds nothing: where its value is 0 the whole score is 0.

    Every part's value is kept in ``Score.parts`` under its name, and its own parts under ``name/part``. If one part
    has a fault, so has the score. A task whose kind no part serves is a ``ValueError``.

    """

    def __init__(self, *, parts: Mapping[str, Mapping[str, Any]]) -> None:
        if not parts:
            raise ValueError("parts must name at least one reward, got none")
        self._parts = [_part(name, dict(spec)) for name, spec in parts.items()]
        self.declaration = self._declare()

    def _declare(self) -> Declaration:
        """The range over all kinds of task: each kind has the sum of its own parts, and 0 where a gate may close."""
        kinds = {kind for part in self._parts for kind in part.kinds or ()} or {""}
        lows, highs = [], []
        for kind in kinds:
            mine = [p for p in self._parts if p.kinds is None or kind in p.kinds]
            ends = [
                sorted((p.weight * declaration(p.reward).low, p.weight * declaration(p.reward).high))
                for p in mine
                if not p.gate
            ]
            gated = any(p.gate for p in mine)
            lows.append(min([sum(low for low, _ in ends)] + [0.0] * gated))
            highs.append(max([sum(high for _, high in ends)] + [0.0] * gated))
        return Declaration(low=min(lows), high=max(highs))

    @property
    def named_kinds(self) -> set[str]:
        """Kinds that some part names as its own."""
        return {kind for part in self._parts for kind in part.kinds or ()}

    def fields_for(self, task: Task) -> Sequence[str]:
        """Fields that the parts serving this task declare."""
        return [field for part in self._serving(task) for field in declaration(part.reward).fields]

    def _serving(self, task: Task) -> list[_Part]:
        serving = [part for part in self._parts if part.serves(task)]
        if not any(not part.gate for part in serving):
            raise ValueError(f"task {task.id}: reward.parts must serve its kind {task.kind!r}, and no part does")
        return serving

    async def __call__(self, task: Task, rollout: Rollout) -> Score:
        total, is_open = 0.0, True
        values: dict[str, float] = {}
        questions: list[Question] = []
        for part in self._serving(task):
            score = await _run(part.reward, task, rollout)
            if score.fault is not None:
                return Score.failed(score.fault, f"{part.name}: {score.error}")
            values[part.name] = score.value
            values |= {f"{part.name}/{name}": value for name, value in score.parts.items()}
            if part.gate:
                if score.questions:
                    raise ValueError(f"reward.parts.{part.name} must not be a gate, because a judge decides it later")
                is_open = is_open and score.value > 0
                continue
            total += part.weight * score.value
            questions += [
                replace(q, name=f"{part.name}/{q.name}", weight=part.weight * q.weight) for q in score.questions
            ]
        if not is_open:
            return Score(value=0.0, parts=values)
        return Score(value=total, parts=values, questions=tuple(questions))


async def _run(function: RewardFunction, task: Task, rollout: Rollout) -> Score:
    result = function(task, rollout)
    if inspect.isawaitable(result):
        result = await cast("Awaitable[float | Score]", result)
    return result if isinstance(result, Score) else Score(value=float(result))


def _part(name: str, spec: dict[str, Any]) -> _Part:
    unknown = sorted(set(spec) - {"reward", "weight", "kinds", "gate"})
    if unknown or "reward" not in spec:
        raise ValueError(f"parts.{name} must have reward, and may have weight, kinds and gate, got {sorted(spec)}")
    return _Part(
        name=name,
        reward=build_reward(spec["reward"], name=f"parts.{name}.reward"),
        weight=float(spec.get("weight", 1.0)),
        kinds=tuple(spec["kinds"]) if spec.get("kinds") is not None else None,
        gate=bool(spec.get("gate", False)),
    )
