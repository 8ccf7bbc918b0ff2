"""Token budgets: how many tokens a rollout should take, by kind of task, and a ledger of how they are kept (K2 §3.2.3).

What no budget may exceed is ``rollout.max_tokens``, or a kind's own ``max_tokens``. A policy can ask for less.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rl.types import EndReason, Rollout, RolloutGroup, Score, Task


class BudgetPolicy(Protocol):
    """Decides on budgets, and may learn from how rollouts went. Its state is saved with every checkpoint."""

    def budget(self, task: Task) -> int | None:
        """In tokens that the policy writes; None for as many as the kind of task may take."""
        ...

    def observe(self, kind: str, lengths: Sequence[int], *, iteration: int) -> None:
        """Lengths of an iteration's correct rollouts of a kind of task, in tokens."""
        ...

    def state(self) -> dict[str, Any]: ...

    def restore(self, state: dict[str, Any]) -> None: ...


class Fixed:
    """What ``max_tokens`` says, for good."""

    def budget(self, task: Task) -> int | None:
        return None

    def observe(self, kind: str, lengths: Sequence[int], *, iteration: int) -> None:
        pass

    def state(self) -> dict[str, Any]:
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        pass


class FromField(Fixed):
    """What each task's ``fields`` say under a name; tasks that say nothing have the kind's."""

    def __init__(self, *, field: str = "budget") -> None:
        self._field = field

    def budget(self, task: Task) -> int | None:
        value = task.fields.get(self._field)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"task {task.id}: {self._field} must be a whole number of at least 1, got {value!r}")
        return value


class Learned:
    """A percentile of the lengths of a kind's correct rollouts in the first iterations, fixed from then on (K2.5).

    Args:
        percentile: above 0, up to 100. Of the lengths in order, the first that so many percent do not exceed.
        warmup_iterations: how many iterations are looked at; there is no budget meanwhile.
        least: correct rollouts of a kind without which it has to go on without a budget.
        kinds: of task, that get one; None for all. Where nothing can be left out, a call of a tool for example, a
            budget below the longest only cuts.

    """

    def __init__(
        self,
        *,
        percentile: float = 75.0,
        warmup_iterations: int = 5,
        least: int = 32,
        kinds: Sequence[str] | None = None,
    ) -> None:
        if not 0 < percentile <= 100 or warmup_iterations < 1 or least < 1:
            raise ValueError(
                "percentile must be above 0 and up to 100, warmup_iterations and least at least 1, got "
                f"{percentile}, {warmup_iterations}, {least}"
            )
        self._percentile, self._warmup, self._least = percentile, warmup_iterations, least
        self._kinds = kinds
        self._lengths: dict[str, list[int]] = {}
        self._budgets: dict[str, int] = {}

    def budget(self, task: Task) -> int | None:
        return self._budgets.get(task.kind)

    def observe(self, kind: str, lengths: Sequence[int], *, iteration: int) -> None:
        if kind in self._budgets or (self._kinds is not None and kind not in self._kinds):
            return
        seen = self._lengths.setdefault(kind, [])
        seen += lengths
        if iteration >= self._warmup and len(seen) >= self._least:
            self._budgets[kind] = percentile(seen, self._percentile)
            del self._lengths[kind]

    def state(self) -> dict[str, Any]:
        return {"lengths": self._lengths, "budgets": self._budgets}

    def restore(self, state: dict[str, Any]) -> None:
        self._lengths, self._budgets = dict(state["lengths"]), dict(state["budgets"])


def percentile(values: Sequence[int], percent: float) -> int:
    """Of the values in order, the first that ``percent`` percent do not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]


@dataclass(kw_only=True)
class Budgets:
    """The budgets of a run. With ``cut``, rollouts end at theirs; without, only rewards know of it."""

    policy: BudgetPolicy
    most: Callable[[str], int]
    """Most tokens of a rollout, by kind of task."""
    cut: bool
    pass_value: float
    """A rollout is correct if its score is at least this."""

    def of(self, task: Task) -> tuple[int, int]:
        """The tokens that a rollout of the task should take at most, and after how many it is cut."""
        most, wanted = self.most(task.kind), self.policy.budget(task)
        budget = most if wanted is None else min(wanted, most)
        return budget, budget if self.cut else most

    def observe(self, groups: Sequence[RolloutGroup], *, iteration: int) -> dict[str, float]:
        """Let the policy learn from an iteration's groups, as verifiers scored them; returns the ledger."""
        metrics: dict[str, float] = {}
        for kind in sorted({g.task.kind for g in groups}):
            own = [(r, s) for g in groups if g.task.kind == kind for r, s in zip(g.rollouts, g.scores, strict=True)]
            right = [r.completion_tokens for r, s in own if self._correct(s)]
            metrics |= _ledger(kind, [r for r, s in own if s.fault is None], right)
            self.policy.observe(kind, right, iteration=iteration)
        return metrics

    def _correct(self, score: Score) -> bool:
        """Whether a verifier says so: the best of a ranked group need not be right."""
        return score.fault is None and score.rubric_hash is None and score.value >= self.pass_value


def over_budget(rollout: Rollout) -> bool:
    """Whether it was cut at its budget, or went beyond."""
    budget = rollout.budget
    return rollout.end_reason is EndReason.BUDGET or (budget is not None and rollout.completion_tokens > budget)


def _ledger(kind: str, rollouts: Sequence[Rollout], right: Sequence[int]) -> Mapping[str, float]:
    metrics: dict[str, float] = {}
    bounded = [(r, r.budget) for r in rollouts if r.budget is not None]
    if bounded:
        metrics = {
            f"budget/tokens/{kind}": sum(budget for _, budget in bounded) / len(bounded),
            f"budget/used/{kind}": sum(r.completion_tokens / budget for r, budget in bounded) / len(bounded),
            f"budget/hit_rate/{kind}": sum(over_budget(r) for r, _ in bounded) / len(bounded),
        }
    if right:
        metrics[f"budget/correct_length/{kind}"] = sum(right) / len(right)
    return metrics
