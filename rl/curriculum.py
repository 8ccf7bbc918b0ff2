"""Task streams that learn from results: prioritised sampling, and a curriculum over known difficulties."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from rl.protocols import TaskSource
from rl.selection import balancing_weights, priorities
from rl.types import RolloutGroup, Task


class PrioritisedStream:
    """Samples tasks in proportion to 1 minus their success rate so far (K1.5 §2.3.4).

    Args:
        source: a source with a size. Where its tasks have ``fields["pass_rate"]`` (``closedloop tasks filter`` writes
            it), the curriculum below applies.
        seed: of the draws.
        floor: smallest weight, so that what was mastered is still seen now and then.
        memory: rollouts per task that its success rate looks back on; older ones fade.
        balance_tags: give rare tags the share of frequent ones.
        hard_after: number of draws (of a whole iteration each) after which only tasks with a pass rate below
            ``hard_below`` are drawn; 0 never switches. (K1.5 §3.5 switched at 24.)
        hard_below: see ``hard_after``.
        readmit_every: tasks with pass rate 0 are held back at first, and every so many draws ``readmit_count`` of them
            are admitted (Kimi-Dev App. C.1); 0 holds none back.
        readmit_count: see ``readmit_every``.
        pass_value: score from which a rollout counts as a success.

    """

    def __init__(
        self,
        source: TaskSource,
        *,
        seed: int,
        floor: float = 0.05,
        memory: int = 64,
        balance_tags: bool = False,
        hard_after: int = 0,
        hard_below: float = 0.5,
        readmit_every: int = 0,
        readmit_count: int = 32,
        pass_value: float = 1.0,
    ) -> None:
        if source.size is None:
            raise ValueError("tasks.stream: prioritised sampling needs a source with a size, got an endless one")
        if not 0 < floor <= 1 or memory < 1:
            raise ValueError(f"floor must be in (0, 1] and memory at least 1, got {floor} and {memory}")
        self._tasks = [source.task_at(i) for i in range(source.size)]
        self._by_id = {task.id: number for number, task in enumerate(self._tasks)}
        self._balance = balancing_weights(self._tasks) if balance_tags else [1.0] * len(self._tasks)
        self._rates = [float(t.fields.get("pass_rate", 0.5)) for t in self._tasks]
        self._seed = seed
        self._floor = floor
        self._memory = memory
        self._hard_after, self._hard_below = hard_after, hard_below
        self._readmit_every, self._readmit_count = readmit_every, readmit_count
        self._pass_value = pass_value
        self._success: dict[str, tuple[float, float]] = {}
        self._draws = 0

    def take(self, count: int) -> list[Task]:
        """Draw ``count`` different tasks (or all that are open, if fewer) for the next iteration."""
        open_now = self._open()
        weights = self.weights()
        rng = random.Random(f"prioritised/{self._seed}/{self._draws}")
        self._draws += 1
        # Efraimidis and Spirakis: the largest u ** (1 / weight) are a weighted sample without replacement.
        keys = sorted(((rng.random() ** (1.0 / weights[i]), i) for i in open_now), reverse=True)
        return [self._tasks[i] for _, i in keys[:count]]

    def weights(self) -> list[float]:
        """Present weight of every task of the source, by its number, whether it is open or not."""
        found = priorities(self._success, [t.id for t in self._tasks], floor=self._floor)
        return [weight * balance for weight, balance in zip(found, self._balance, strict=True)]

    def _open(self) -> Sequence[int]:
        numbers: Sequence[int] = range(len(self._tasks))
        if self._readmit_every:
            unsolved = [i for i in numbers if self._rates[i] == 0.0]
            random.Random(f"readmit/{self._seed}").shuffle(unsolved)
            held_back = set(unsolved[self._draws // self._readmit_every * self._readmit_count :])
            numbers = [i for i in numbers if i not in held_back]
        if self._hard_after and self._draws >= self._hard_after:
            hard = [i for i in numbers if self._rates[i] < self._hard_below]
            return hard or numbers
        return numbers

    def observe(self, groups: Sequence[RolloutGroup]) -> None:
        """Learn from an iteration's results."""
        for group in groups:
            values = [s.value for s in group.scores if s.fault is None]
            if group.task.id not in self._by_id or not values:
                continue
            passed, tries = self._success.get(group.task.id, (0.0, 0.0))
            passed, tries = passed + sum(v >= self._pass_value for v in values), tries + len(values)
            fade = min(1.0, self._memory / tries)
            self._success[group.task.id] = (passed * fade, tries * fade)

    def state(self) -> dict[str, Any]:
        return {"draws": self._draws, "success": {k: list(v) for k, v in self._success.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        self._draws = int(state["draws"])
        self._success = {str(k): (float(a), float(b)) for k, (a, b) in state["success"].items()}
