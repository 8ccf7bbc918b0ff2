"""Length rewards: a limit for each rollout, K1.5's comparison within a group, and what budgets cost (K2, K2.5)."""

from __future__ import annotations

from rewards.base import reward
from rl.budget import over_budget
from rl.types import Rollout, RolloutGroup, Task


@reward(range=(0, 1))
def within_length(task: Task, rollout: Rollout, *, tokens: int) -> float:
    """1 if the policy wrote at most ``tokens`` tokens, else 0."""
    return float(rollout.completion_tokens <= tokens)


class LengthReward:
    """Short right answers earn more, long ones less (K1.5 §2.3.3).

    With ``lambda_i = 0.5 - (len_i - min) / (max - min)`` over the group, a right rollout gets ``lambda_i``, a wrong one
    ``min(0, lambda_i)``, times ``weight``; all get 0 if the lengths are equal. Right means a score of at least
    ``pass_value``. Lengths are tokens that the policy wrote.

    The penalty would slow learning down early on, so it is off for the first ``warmup_iterations``, and in groups whose
    mean score is below ``threshold``.
    """

    def __init__(
        self,
        *,
        weight: float = 0.2,
        warmup_iterations: int = 0,
        threshold: float | None = None,
        pass_value: float = 1.0,
    ) -> None:
        if weight < 0 or warmup_iterations < 0:
            raise ValueError(f"weight and warmup_iterations must not be negative, got {weight}, {warmup_iterations}")
        self._weight = weight
        self._warmup = warmup_iterations
        self._threshold = threshold
        self._pass_value = pass_value

    def __call__(self, group: RolloutGroup, *, iteration: int) -> list[float]:
        lengths = [r.completion_tokens for r in group.rollouts]
        scored = [n for n, s in zip(lengths, group.scores, strict=True) if s.fault is None]
        if iteration <= self._warmup or not scored or min(scored) == max(scored):
            return [0.0] * len(lengths)
        if self._threshold is not None and not _affords(group, self._threshold):
            return [0.0] * len(lengths)
        low, high = min(scored), max(scored)
        values = []
        for length, score in zip(lengths, group.scores, strict=True):
            term = 0.5 - (length - low) / (high - low)
            values.append(self._weight * (term if score.value >= self._pass_value else min(0.0, term)))
        return values


def _affords(group: RolloutGroup, threshold: float) -> bool:
    """Whether the group's mean score is at least the threshold: what is not mastered yet need not be short."""
    scores = [s.value for s in group.scores if s.fault is None]
    return bool(scores) and sum(scores) / len(scores) >= threshold


class OverBudget:
    """A rollout that was cut at its budget, or went beyond, loses ``penalty`` (K2 §3.2.3)."""

    def __init__(self, *, penalty: float) -> None:
        if penalty < 0:
            raise ValueError(f"penalty must not be negative, got {penalty}")
        self._penalty = penalty

    def __call__(self, group: RolloutGroup, *, iteration: int) -> list[float]:
        return [-self._penalty * over_budget(r) for r in group.rollouts]


class Toggle:
    """In every other stretch of ``window`` iterations a budget holds, where the policy can afford it (K2.5 §4.4.2).

    Then a rollout over its budget earns nothing, if the group's mean score is at least ``threshold``; in the other
    stretches length is free, so that it is not unlearnt to think. Without ``window`` the budget holds all the time. For
    budgets that do not cut (``budget.cut=false``).
    """

    def __init__(self, *, window: int | None = 5, threshold: float = 0.5) -> None:
        if window is not None and window < 1:
            raise ValueError(f"window must be null or at least 1, got {window}")
        self._window = window
        self._threshold = threshold

    def __call__(self, group: RolloutGroup, *, iteration: int) -> list[float]:
        free = self._window is not None and (iteration // self._window) % 2 == 1
        if free or not _affords(group, self._threshold):
            return [0.0] * len(group.rollouts)
        return [-s.value * over_budget(r) for r, s in zip(group.rollouts, group.scores, strict=True)]
