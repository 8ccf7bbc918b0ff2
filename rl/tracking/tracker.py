"""All places that a run's metrics go to, as one tracker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rl.protocols import Tracker
from rl.types import RolloutGroup


class Trackers:
    """Passes everything on to each of its parts, in order."""

    def __init__(self, parts: Sequence[Tracker]) -> None:
        self._parts = parts

    def log(self, iteration: int, metrics: Mapping[str, float], groups: Sequence[RolloutGroup] = ()) -> None:
        for part in self._parts:
            part.log(iteration, metrics, groups)

    def close(self, summary: Mapping[str, float]) -> None:
        for part in self._parts:
            part.close(summary)
