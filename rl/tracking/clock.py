"""Where a run's time goes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil

STEPS = ("time/rollout_s", "time/reward_s", "time/judge_s", "time/update_s", "time/refresh_s", "time/publish_s")
"""What an iteration is for."""


def timed(measure: Callable[[], dict[str, float]], name: str) -> dict[str, float]:
    """The metrics that ``measure`` returns, and under ``name`` the seconds it took."""
    started = time.monotonic()
    metrics = measure()
    return metrics | {name: time.monotonic() - started}


@dataclass
class Clock:
    """Where an iteration's time goes."""

    _spans: dict[str, float] = field(default_factory=dict)
    _started: float = field(default_factory=time.monotonic)

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._spans[name] = time.monotonic() - started

    def split(self, name: str, part: str, seconds: float) -> None:
        """Book ``seconds`` of the span ``name`` under ``part`` instead."""
        self._spans[name] -= seconds
        self._spans[part] = seconds

    def metrics(self) -> dict[str, float]:
        """All spans, the total, and the share of the total that belongs to none of ``STEPS``."""
        total = time.monotonic() - self._started
        other = total - sum(self._spans.get(name, 0.0) for name in STEPS)
        return self._spans | {"time/iteration_s": total, "time/other_share": other / total}


def throughput(metrics: Mapping[str, float]) -> dict[str, float]:
    """Tokens per second of the two heavy steps, where their counts and times are known."""
    pairs = (
        ("perf/rollout_tokens_per_s", "rollout/tokens", "time/rollout_s"),
        ("perf/train_tokens_per_s", "perf/train_tokens", "time/update_s"),
    )
    return {
        name: metrics[count] / metrics[seconds]
        for name, count, seconds in pairs
        if count in metrics and metrics.get(seconds, 0.0) > 0
    }


def seconds_since_start() -> float:
    """Seconds since this process was started."""
    return time.time() - psutil.Process().create_time()
