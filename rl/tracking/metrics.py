"""Metrics that are derived from other metrics of the same iteration."""

from __future__ import annotations

from collections.abc import Mapping


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
