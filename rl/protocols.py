"""What the loop needs of its parts, so that it can be read, and tested, without Ray, vLLM or DeepSpeed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from rl.types import Message, Rollout, RolloutGroup, Sample, SampleRequest, Score, Task, Verdict, WeightVersion


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

    def export(self) -> tuple[WeightVersion, Sequence[Any]]:
        """The present weights: their description and one handle per bucket."""
        ...

    def logprobs(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        """The trainer's own logprobs, at temperature 1, of each continuation after its prompt."""
        ...

    def trace(self, token_ids: Sequence[int]) -> Mapping[str, Any]:
        """Output of every sub-module for one prompt, by module name."""
        ...


class WeightSink(Protocol):
    """The engines' side of publishing."""

    def load_weights(self, version: WeightVersion, handles: Sequence[Any]) -> list[tuple[str, list[str]]]:
        """Load everywhere. Returns, per living engine, the digest of what it loaded and parameters that got nothing."""
        ...

    def probe(self, requests: Sequence[SampleRequest]) -> list[list[Sample]]:
        """The answers of each living engine to the same requests."""
        ...

    def trace(self, engine: int, token_ids: Sequence[int]) -> Mapping[str, Any]: ...


class Tracker(Protocol):
    """Where metrics and rollouts go."""

    def log(self, iteration: int, metrics: Mapping[str, float], groups: Sequence[RolloutGroup] = ()) -> None: ...

    def close(self, summary: Mapping[str, float]) -> None: ...
