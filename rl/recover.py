"""Whether a run that lost a worker goes on by itself."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Restarts:
    """Counts a run's failures. Those in a row, with no new checkpoint in between, end it once they exceed ``limit``."""

    limit: int
    began: bool = False
    """Whether its workers ever started. What never ran is wrongly configured, and would fail again."""
    count: int = 0
    """Restarts so far."""
    _in_row: int = field(default=0, init=False)
    _newest: int = field(default=0, init=False)

    def allow(self, *, saved: int) -> bool:
        """Whether to start once more after a failure; ``saved`` is the iteration of the checkpoint written last.

        A run that falls back behind a checkpoint, and only writes it again, has made no progress.
        """
        self._in_row = 1 if saved > self._newest else self._in_row + 1
        self._newest = max(saved, self._newest)
        if not self.began or self._in_row > self.limit:
            return False
        self.count += 1
        return True
