"""The guard: how far the critic can be trusted, measured on comparisons that it is never trained on."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from critic.judge import Judge
from critic.ranking import both_orders, flipped
from critic.refresh import Pair, balanced
from rl.types import RolloutGroup, Task

BINS = 10


@dataclass(frozen=True, kw_only=True)
class Judged:
    """A pair with the judge's preference for the right reply, shown first and shown second; None where unreadable."""

    pair: Pair
    first: float | None
    second: float | None

    @property
    def preference(self) -> float | None:
        """For the right reply, over both orders."""
        return both_orders(self.first, self.second)

    @property
    def credit(self) -> float:
        """1 if the right reply is preferred, 0.5 for a tie or no answer, else 0."""
        value = self.preference
        return 0.5 if value is None or value == 0.5 else float(value > 0.5)


async def judge_pairs(judge: Judge, pairs: Sequence[Pair]) -> list[Judged]:
    """Each pair in both orders."""

    async def one(pair: Pair) -> Judged:
        first, second = await asyncio.gather(
            judge.compare(pair.task, pair.right, pair.wrong), judge.compare(pair.task, pair.wrong, pair.right)
        )
        turned = None if second.value is None else 1 - second.value
        return Judged(pair=pair, first=first.value, second=turned)

    return list(await asyncio.gather(*(one(pair) for pair in pairs)))


def accuracy(judged: Sequence[Judged]) -> float:
    """Share of pairs whose right reply is preferred; ties and unreadable answers count half."""
    return sum(j.credit for j in judged) / len(judged) if judged else 0.5


def report(judged: Sequence[Judged]) -> dict[str, float]:
    """What a set of judged pairs says of the judge; names as in ``docs/metrics.md``, without their beginning."""
    count = len(judged)
    found = accuracy(judged)
    spread = 1.96 * math.sqrt(found * (1 - found) / count) if count else 0.5
    flips = [flip for j in judged if (flip := flipped(j.first, j.second)) is not None]
    metrics = {
        "pairs": float(count),
        "accuracy": found,
        "accuracy/low": max(0.0, found - spread),
        "accuracy/high": min(1.0, found + spread),
        "order_flip_rate": sum(flips) / len(flips) if flips else 0.0,
        "calibration_error": calibration_error(judged),
        "agreement": agreement(judged),
    }
    for kind in sorted({j.pair.task.kind for j in judged}):
        metrics[f"accuracy/kind/{kind}"] = accuracy([j for j in judged if j.pair.task.kind == kind])
    for longer in sorted({j.pair.longer for j in judged}):
        metrics[f"accuracy/longer/{longer}"] = accuracy([j for j in judged if j.pair.longer == longer])
    return metrics


def calibration_error(judged: Sequence[Judged]) -> float:
    """Expected calibration error (Guo et al. 2017, Eq. 3) of the preferences over both orders, in ten bins.

    A judge that says 0.7 should be right in 70 % of such cases.
    """
    known = [(max(v, 1 - v), j.credit) for j in judged if (v := j.preference) is not None]
    bins: dict[int, list[tuple[float, float]]] = {}
    for sure, credit in known:
        bins.setdefault(min(BINS - 1, int(sure * BINS)), []).append((sure, credit))
    gaps = [abs(sum(s for s, _ in entries) - sum(c for _, c in entries)) for entries in bins.values()]
    return sum(gaps) / len(known) if known else 0.0


def agreement(judged: Sequence[Judged]) -> float:
    """Correlation of the critic's score of a reply, its win rate over its judged pairs, with the verifier's, 0 or 1.

    Without any spread in the critic's scores it is 0.
    """
    wins: dict[tuple[str, str, bool], list[float]] = {}
    for j in judged:
        if (value := j.preference) is not None:
            wins.setdefault((j.pair.task.id, j.pair.right, True), []).append(value)
            wins.setdefault((j.pair.task.id, j.pair.wrong, False), []).append(1 - value)
    scores = [sum(values) / len(values) for values in wins.values()]
    truth = [float(passed) for _, _, passed in wins]
    if len(set(scores)) < 2 or len(set(truth)) < 2:
        return 0.0
    mean_s, mean_t = sum(scores) / len(scores), sum(truth) / len(truth)
    together = sum((s - mean_s) * (t - mean_t) for s, t in zip(scores, truth, strict=True))
    return together / math.sqrt(sum((s - mean_s) ** 2 for s in scores) * sum((t - mean_t) ** 2 for t in truth))


@dataclass(kw_only=True)
class Guard:
    """Watches the critic on pairs of held-out tasks' rollouts, and says how much its rewards may count.

    Args:
        pairs: most pairs per measurement, each judged in both orders.
        per_task: most pairs of one task.
        floor: accuracy up to which the critic's rewards count nothing.
        full: accuracy from which they count in full; between the two the weight rises in proportion.
        tolerance: how much accuracy on the same pairs a refresh of a separate critic may lose before it is undone.

    """

    pairs: int = 64
    per_task: int = 2
    floor: float = 0.65
    full: float = 0.85
    tolerance: float = 0.02
    weight: float = field(default=0.0, init=False)
    accuracy: float = field(default=0.5, init=False)
    kept: list[Pair] = field(default_factory=list, init=False)
    """Pairs of the last measurement, with which a refresh is compared."""

    def __post_init__(self) -> None:
        if self.pairs < 1 or self.per_task < 1:
            raise ValueError(f"critic.guard.pairs and per_task must be at least 1, got {self.pairs}, {self.per_task}")
        if not 0 <= self.floor <= self.full <= 1:
            raise ValueError(
                "critic.guard.floor and full must be accuracies from 0 to 1, the lower one first, got "
                f"{self.floor}, {self.full}"
            )
        self._set(0.5)

    def _set(self, found: float) -> None:
        self.accuracy = found
        span = self.full - self.floor
        self.weight = float(found >= self.floor) if span == 0 else min(1.0, max(0.0, (found - self.floor) / span))

    async def measure(
        self, judge: Judge, groups: Sequence[RolloutGroup], *, pass_value: float, decides: bool = True
    ) -> dict[str, float]:
        """Judge pairs from these groups. The weight follows the result if it ``decides``."""
        rng = random.Random(0)
        pairs = balanced(groups, count=self.pairs, per_task=self.per_task, pass_value=pass_value, rng=rng)
        judged = await judge_pairs(judge, pairs)
        if decides and judged:
            self.kept = [replace(pair, task=replace(pair.task, fields={})) for pair in pairs]
            self._set(accuracy(judged))
        return report(judged)

    async def compare(self, judge: Judge) -> float:
        """Accuracy of the judge as it is now on the last measurement's pairs."""
        return accuracy(await judge_pairs(judge, self.kept))

    def state(self) -> dict[str, Any]:
        """What ``restore`` needs, as JSON."""
        return {"accuracy": self.accuracy, "kept": [asdict(pair) for pair in self.kept]}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._set(state["accuracy"])
        self.kept = [Pair(**{**pair, "task": read_task(pair["task"])}) for pair in state["kept"]]


def read_task(saved: Mapping[str, Any]) -> Task:
    """A task from its JSON."""
    return replace(Task(**saved), messages=tuple(saved["messages"]), tags=tuple(saved["tags"]))
