"""The parts of a run, wired together by ``rl.launch``, and how they are saved and taken up again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from rl.budget import Budgets
from rl.checkpoint import Checkpoints, RunState
from rl.config import Config
from rl.critic_learner import CriticLearner
from rl.errors import WeightMismatchError
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
    restarts: int
    """How often the run was started again after a failure."""
    _restored: RunState | None = field(default=None, init=False)

    def save(self, done: int) -> None:
        """Checkpoint the run as it stands after ``done`` iterations."""
        state = RunState(
            iteration=done,
            stream=self.stream.state(),
            version=self.trainer.version,
            weights=self.publisher.digest,
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
        self._restored = state
        return state.iteration

    def publish_first(self) -> dict[str, float]:
        """Publish the weights that the run begins or goes on with; returns the metrics.

        Raises ``WeightMismatchError`` if they are not those that were published when the checkpoint was written.
        """
        _, metrics = self.publisher.publish()
        state = self._restored
        if state is not None and state.weights not in ("", self.publisher.digest):
            raise WeightMismatchError(
                f"the trainer took up weights {self.publisher.digest} from the checkpoint of iteration "
                f"{state.iteration}, but those published when it was written were {state.weights}; remove that "
                "checkpoint to go on from an older one, or choose another name or folder"
            )
        return metrics
