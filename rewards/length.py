"""Length rewards: a limit for each rollout, and K1.5's comparison within a group."""

from __future__ import annotations

from rewards.base import reward
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

    The penalty would slow learning down early on, so it is off for the first ``warmup_iterations``.
    """

    def __init__(self, *, weight: float = 0.2, warmup_iterations: int = 0, pass_value: float = 1.0) -> None:
        if weight < 0 or warmup_iterations < 0:
            raise ValueError(f"weight and warmup_iterations must not be negative, got {weight}, {warmup_iterations}")
        self._weight = weight
        self._warmup = warmup_iterations
        self._pass_value = pass_value

    def __call__(self, group: RolloutGroup, *, iteration: int) -> list[float]:
        lengths = [r.completion_tokens for r in group.rollouts]
        scored = [n for n, s in zip(lengths, group.scores, strict=True) if s.fault is None]
        if iteration <= self._warmup or not scored or min(scored) == max(scored):
            return [0.0] * len(lengths)
        low, high = min(scored), max(scored)
        values = []
        for length, score in zip(lengths, group.scores, strict=True):
            term = 0.5 - (length - low) / (high - low)
            values.append(self._weight * (term if score.value >= self._pass_value else min(0.0, term)))
        return values
