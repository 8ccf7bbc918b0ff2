"""The parts of a run, wired together by ``rl.launch``, and how they are saved and taken up again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rl.budget import Budgets
from rl.checkpoint import Checkpoints, RunState
from rl.config import Config
from rl.critic_learner import CriticLearner
from rl.evaluate import Evaluation
from rl.joint import JointCollector
from rl.protocols import GroupReward, TaskStream, Tracker, Trainer
from rl.weights.publish import Publisher


@dataclass(kw_only=True)
class System:
    """Everything that ``rl.loop`` calls."""

    config: Config
    fingerprint: dict[str, str]
    stream: TaskStream
    collector: JointCollector
    budgets: Budgets
    critic: CriticLearner
    shaping: Mapping[str, GroupReward]
    trainer: Trainer
    publisher: Publisher
    evaluation: Evaluation
    checkpoints: Checkpoints
    tracker: Tracker
    stop_requested: Callable[[], bool]
    seconds_since_start: Callable[[], float]

    def save(self, done: int) -> None:
        """Checkpoint the run as it stands after ``done`` iterations."""
        state = RunState(
            iteration=done,
            stream=self.stream.state(),
            version=self.trainer.version,
            critic=self.critic.state(),
            budget=self.budgets.policy.state(),
            fingerprint=self.fingerprint,
        )
        self.checkpoints.save(state, self.trainer.save, self.critic.save, self.collector.save)

    def restore(self) -> int:
        """Take up the newest checkpoint; returns the iterations it had done, 0 without one."""
        found = self.checkpoints.newest()
        if found is None:
            return 0
        state, folder = found
        self.trainer.load(folder, version=state.version)
        self.stream.restore(state.stream)
        self.critic.load(folder, state.critic)
        self.budgets.policy.restore(state.budget)
        self.collector.load(folder)
        return state.iteration
