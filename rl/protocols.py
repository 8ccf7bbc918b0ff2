"""What the loop needs of its parts, so that it can be read, and tested, without Ray, vLLM or DeepSpeed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from rl.types import (
    Loaded,
    Message,
    Rollout,
    RolloutGroup,
    Sample,
    SampleRequest,
    Score,
    Task,
    Verdict,
    WeightVersion,
)


class Engine(Protocol):
    """Something that continues token sequences. Many calls may be in flight at once."""

    async def sample(self, request: SampleRequest) -> Sample:
        """Raises ``WorkerFailedError`` if the engine died or kept silent past its deadline.

        If other engines live it is an ``EngineLostError``, and the next call goes to one of them.
        """
        ...

    async def interrupt(self, sessions: set[str]) -> None:
        """Have these rollouts' requests answered now, ``interrupted``, with the tokens that there are."""
        ...


class TaskSource(Protocol):
    """Numbered tasks. A source with a size is repeated in a new order every epoch; one without never ends."""

    @property
    def size(self) -> int | None: ...

    def task_at(self, index: int) -> Task: ...


class TaskStream(Protocol):
    """Hands out a run's training tasks, and may learn from how they went. Its state is saved with every checkpoint."""

    def take(self, count: int) -> list[Task]:
        """Tasks for the next iteration."""
        ...

    def observe(self, groups: Sequence[RolloutGroup]) -> None:
        """Results of the tasks that were taken last."""
        ...

    def state(self) -> dict[str, Any]:
        """Everything that ``restore`` needs to go on exactly here, as JSON."""
        ...

    def restore(self, state: dict[str, Any]) -> None: ...


class RewardFunction(Protocol):
    """A verifiable reward: no shared state, runs in a process of its own. May be ``async``."""

    def __call__(self, task: Task, rollout: Rollout) -> float | Score: ...


class Scorer(Protocol):
    """Scores rollouts without blocking the event loop. Never raises for a reward's fault: the score carries it."""

    async def __call__(self, task: Task, rollout: Rollout) -> Score: ...


class GroupReward(Protocol):
    """What a rollout earns by comparison with the others of its group, added to its score."""

    def __call__(self, group: RolloutGroup, *, iteration: int) -> Sequence[float]: ...


class Judge(Protocol):
    """Answers yes-or-no questions about a response. Never raises: a verdict may be without a value."""

    async def __call__(self, question: Task) -> Verdict: ...


class ChatCodec(Protocol):
    """Messages to tokens and back, in the model's own chat format."""

    def prompt_ids(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> list[int]: ...

    def continuation_ids(self, messages: Sequence[Message]) -> list[int]: ...

    def reply_ids(self, text: str) -> list[int]: ...

    def call_structure(self, tools: Sequence[Mapping[str, Any]]) -> str | None: ...

    def end_ids(self) -> list[int]: ...

    def plain(self, text: str) -> str: ...

    def decode(self, token_ids: Sequence[int]) -> str: ...

    def read(self, token_ids: Sequence[int], *, call_number: int = 0) -> Message: ...


class Trainer(Protocol):
    """All trainer ranks together."""

    @property
    def version(self) -> int:
        """Number of optimizer steps behind the present weights."""
        ...

    @property
    def oldest(self) -> int:
        """The oldest version whose tokens the next update may learn from."""
        ...

    def update(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """One iteration's optimizer steps; returns metrics."""
        ...

    def save(self, folder: Path) -> None: ...

    def load(self, folder: Path, *, version: int) -> None:
        """Take up what ``save`` wrote after ``version`` optimizer steps."""
        ...


class WeightSource(Protocol):
    """The trainer's side of publishing."""

    exclusive: AbstractContextManager[Any]
    """While it is held, the weights stay what they are."""

    @property
    def version(self) -> int: ...

    def logprobs(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """The trainer's own logprobs, at temperature 1, of each continuation after its prompt."""
        ...

    def trace(self, token_ids: Sequence[int]) -> Mapping[str, Any]:
        """Output of every sub-module for one prompt, by module name."""
        ...

    def rest(self) -> None:
        """Nothing is learnt for a while: memory may go to others."""
        ...


class WeightSink(Protocol):
    """The engines' side of publishing, and the way there."""

    def transfer(self, only: str | None = None) -> tuple[WeightVersion, Mapping[str, Loaded]]:
        """Bring the trainer's present weights to all engines that live, or to one; returns what each says to them.

        Raises ``TransferError`` if they did not get across, ``WorkerFailedError`` if trainer or last engine failed.
        """
        ...

    def probe(self, engines: Sequence[str], requests: Sequence[SampleRequest]) -> Mapping[str, Sequence[Sample]]:
        """The answers of these engines to the same requests."""
        ...

    def trace(self, engine: str, token_ids: Sequence[int]) -> Mapping[str, Any]: ...

    def tensor_names(self, module: str) -> Sequence[str]:
        """Names of the tensors that belong to a module."""
        ...

    def accept(self, engines: Sequence[str]) -> None:
        """These engines are proven to have the published weights: they may be asked."""
        ...

    def drop(self, engine: str, error: Exception) -> None:
        """Give an engine up."""
        ...


class Tracker(Protocol):
    """Where metrics and rollouts go."""

    def log(self, iteration: int, metrics: Mapping[str, float], groups: Sequence[RolloutGroup] = ()) -> None: ...

    def close(self, summary: Mapping[str, float]) -> None: ...
