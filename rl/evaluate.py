"""Evaluation on held-out tasks: sampled and greedy, with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rl.collect import Collector
from rl.types import RolloutGroup, Task


def pass_at_k(passed: int, count: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of k samples passes, from ``passed`` of ``count``.

    ``1 - C(count - passed, k) / C(count, k)`` (Chen et al. 2021, Eq. 1). Raises ``ValueError`` if k > count.
    """
    if k > count:
        raise ValueError(f"k must not exceed the number of samples, got k={k} for {count} samples")
    return 1.0 - math.comb(count - passed, k) / math.comb(count, k)


def mean_interval(values: Sequence[float], *, lowest: float = 0.0, z: float = 1.96) -> tuple[float, float, float]:
    """Mean of independent values and its interval by the normal approximation, cut to [lowest, 1].

    The interval reaches ``z`` standard errors to each side; 1.96 makes it one of 95 %.
    """
    count = len(values)
    mean = sum(values) / count
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (count - 1) / count) if count > 1 else 1.0
    return mean, max(lowest, mean - z * spread), min(1.0, mean + z * spread)


Watch = Callable[[Sequence[RolloutGroup]], dict[str, float]]


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """Measures the policy that the engines hold on a fixed set of tasks. Metric names begin with ``name``."""

    name: str
    collector: Collector
    tasks: Sequence[Task]
    samples: int
    temperature: float
    pass_value: float
    watch: Watch
    """What else to measure on the sampled groups."""

    def run(self) -> dict[str, float]:
        """Metrics of one evaluation; the same weights give the same figures."""
        sampled = self.collector.collect(
            self.tasks, group_size=self.samples, temperature=self.temperature, stream="evaluation"
        )
        greedy = self.collector.collect(self.tasks, group_size=1, temperature=0.0, stream="evaluation/greedy")
        rates = [self._passed(group) / self.samples for group in sampled]
        mean, low, high = mean_interval(rates)
        lengths = [r.completion_tokens for g in sampled for r in g.rollouts]
        scores = [s.value for g in sampled for s in g.scores if s.fault is None]
        metrics = {
            "pass_rate": mean,
            "pass_rate/low": low,
            "pass_rate/high": high,
            "pass_rate/greedy": sum(self._passed(g) for g in greedy) / len(greedy),
            "score": sum(scores) / len(scores) if scores else 0.0,
            "length/mean": sum(lengths) / len(lengths),
        }
        for kind in ("", *sorted({task.kind for task in self.tasks})):
            right = self._lengths([group for group in sampled if kind in ("", group.task.kind)])
            if right:
                metrics[f"length/correct/{kind}".rstrip("/")] = sum(right) / len(right)
        for k in sorted({1, self.samples}):
            values = [pass_at_k(self._passed(group), self.samples, k) for group in sampled]
            metrics[f"pass_at/{k}"] = sum(values) / len(values)
        for tag in sorted({tag for task in self.tasks for tag in task.tags}):
            own = [rate for rate, group in zip(rates, sampled, strict=True) if tag in group.task.tags]
            metrics[f"tag/{tag}"] = sum(own) / len(own)
        return {f"{self.name}/{metric}": value for metric, value in metrics.items()} | self.watch(sampled)

    def _lengths(self, groups: Sequence[RolloutGroup]) -> list[int]:
        """Of the rollouts that passed."""
        return [
            r.completion_tokens
            for g in groups
            for r, s in zip(g.rollouts, g.scores, strict=True)
            if s.fault is None and s.value >= self.pass_value
        ]

    def _passed(self, group: RolloutGroup) -> int:
        return sum(s.fault is None and s.value >= self.pass_value for s in group.scores)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """All sets that a run measures."""

    evaluators: Sequence[Evaluator]

    def run(self) -> dict[str, float]:
        return {name: value for evaluator in self.evaluators for name, value in evaluator.run().items()}
