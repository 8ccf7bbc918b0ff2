"""Schedules: pure functions of the step."""

from __future__ import annotations

import math

KINDS = ("constant", "linear", "cosine")


def learning_rate(step: int, *, peak: float, kind: str, warmup_steps: int, total_steps: int, floor: float) -> float:
    """Learning rate of update number ``step`` (from 0).

    Rises linearly over ``warmup_steps``, then stays (constant) or falls to ``floor * peak`` at ``total_steps``
    along a line or half a cosine. Raises ``ValueError`` for an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"trainer.schedule must be one of {KINDS}, got {kind!r}")
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if kind == "constant":
        return peak
    done = min(1.0, (step - warmup_steps) / max(1, total_steps - warmup_steps))
    fall = 1 - done if kind == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return peak * (floor + (1 - floor) * fall)


def temperature(iteration: int, *, first: float, last: float | None, iterations: int) -> float:
    """Sampling temperature of iteration number ``iteration`` (from 1): from ``first`` to ``last`` along a line.

    K2 (§3.2.3) decays it, without saying how. Without ``last`` it stays.
    """
    if last is None or iterations <= 1:
        return first
    return first + (last - first) * min(1.0, (iteration - 1) / (iterations - 1))
