"""How the critic's weights move: with the policy's, by a trainer of their own, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from critic.critic import Critic
from rl.protocols import Trainer
from rl.types import ON_DISK, RolloutGroup
from rl.weights.publish import Publisher


@dataclass(kw_only=True)
class CriticLearner:
    """One run's critic as the loop sees it; does nothing without a critic.

    With ``shared`` weights the critic's lessons join the policy's update. With a ``trainer`` they make an update of the
    critic's own weights, which ``publisher`` takes to its engines; one that makes the critic worse is undone. Without
    either the critic is frozen.
    """

    critic: Critic | None
    shared: bool
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    folder: Path
    """Where the weights before a refresh are kept until it has proven itself."""
    trainer: Trainer | None = None
    publisher: Publisher | None = None

    def follow(self, version: int) -> None:
        """The policy's weights of this number are published: from now on shared ones may judge, and none newer."""
        if self.critic is None:
            return
        if self.shared:
            self.critic.judge.newest = version
        elif self.critic.judge.newest is None:
            self.critic.judge.newest = ON_DISK if self.publisher is None else self._publish(self.publisher)[0]

    def joined(self, groups: Sequence[RolloutGroup], lessons: Sequence[RolloutGroup]) -> list[RolloutGroup]:
        """What the policy's update learns from."""
        return [*groups, *lessons] if self.shared else list(groups)

    def learn(self, lessons: Sequence[RolloutGroup]) -> dict[str, float]:
        """Refresh a separate critic, and undo it if accuracy on the guard's pairs falls by more than its tolerance."""
        if self.critic is None or self.trainer is None or self.publisher is None or not _usable(lessons):
            return {}
        guard, judge = self.critic.guard, self.critic.judge
        before: float = self.run(guard.compare(judge))
        self.trainer.save(self.folder)
        metrics = self.trainer.update(lessons)
        judge.newest, proof = self._publish(self.publisher)
        metrics |= proof
        after: float = self.run(guard.compare(judge))
        undone = bool(guard.kept) and after < before - guard.tolerance
        if undone:
            # The undoing is a version of its own: numbers name weights, and are never used twice.
            self.trainer.load(self.folder, version=self.trainer.version + 1)
            judge.newest, _ = self._publish(self.publisher)
        return {f"critic/{name}": value for name, value in metrics.items()} | {
            "critic/refresh/accuracy_change": after - before,
            "critic/refresh/undone": float(undone),
        }

    def _publish(self, publisher: Publisher) -> tuple[int, dict[str, float]]:
        version, metrics = publisher.publish()
        return version.number, metrics

    def metrics(self, lessons: Sequence[RolloutGroup]) -> dict[str, float]:
        return {} if self.critic is None else self.critic.metrics(lessons)

    def watch(self, groups: Sequence[RolloutGroup], *, name: str = "", decides: bool = True) -> dict[str, float]:
        """The guard's measurement on an evaluation's groups; see ``Guard.measure``."""
        if self.critic is None:
            return {}
        critic = self.critic
        found: dict[str, float] = self.run(
            critic.guard.measure(critic.judge, groups, pass_value=critic.pass_value, decides=decides)
        )
        critic.judge.metrics()  # what the guard asks is no part of an iteration's counts
        return {f"critic/guard/{name}{metric}": value for metric, value in found.items()}

    def state(self) -> dict[str, Any]:
        """What ``load`` needs beside the trainer's own files, as JSON."""
        if self.critic is None:
            return {}
        return self.critic.state() | {"version": 0 if self.trainer is None else self.trainer.version}

    def save(self, folder: Path) -> None:
        """Add a separate critic's weights and optimizer to a checkpoint."""
        if self.trainer is not None:
            self.trainer.save(folder / "critic")

    def load(self, folder: Path, state: Mapping[str, Any]) -> None:
        """Take up what ``save`` wrote and ``state`` said."""
        if self.critic is not None:
            self.critic.restore(state)
        if self.trainer is not None:
            self.trainer.load(folder / "critic", version=state["version"])


def _usable(lessons: Sequence[RolloutGroup]) -> bool:
    return any(score.fault is None for group in lessons for score in group.scores)
