"""One iteration's rollouts: verified tasks, tasks that the critic ranks, and comparisons that it learns from, at once.

    verified tasks ──► groups ──► scores ──────────────► update
                                    └─► comparisons with a known answer, for the next iteration
    other tasks ─────► groups ──► judged pairwise ─────► update
    comparisons of the last iteration ──► judgements ──► update

Nothing here waits for anything else: a group is judged while others are still sampled, and the critic's lessons are
sampled beside the policy's rollouts. What has not ended when an iteration's time is over is paused and goes on in the
next one.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from critic.critic import Critic
from rl.collect import Collector, PendingGroup
from rl.config import KindConfig
from rl.errors import WorkerFailedError
from rl.gate import Gate
from rl.in_flight import group_from, record_of
from rl.types import RolloutGroup, Task

T = TypeVar("T")
IN_FLIGHT = "in_flight.json"


@dataclass(frozen=True, kw_only=True)
class Harvest:
    """What an iteration learns from, and the seconds in which sampling had ended but rewards or judge were at work."""

    groups: list[RolloutGroup]
    """The policy's, in the order in which they were begun."""
    lessons: list[RolloutGroup]
    """The critic's: its judgements of comparisons with a known answer."""
    reward_s: float
    judge_s: float
    pending: int
    """Groups that go on in the next iteration."""
    faults: Mapping[str, float]
    """Counts of what failed besides single rollouts."""

    @property
    def metrics(self) -> dict[str, float]:
        return {"rollout/pending": float(self.pending), **self.faults}


@dataclass(kw_only=True)
class _Running:
    """A group under way and whoever waits for it."""

    group: PendingGroup
    future: asyncio.Task[RolloutGroup] = field(init=False)
    scored_at: float = 0.0
    """When its rollouts had a verifier's scores, on the monotonic clock; 0 where none gives them."""


@dataclass(kw_only=True)
class JointCollector:
    """Collects what one iteration trains on. ``judging`` samples and scores the critic's own judgements.

    ``gate`` stands between the policy's rollouts and the engines; ``iteration_s`` is how long it stays open, if not
    until all have ended.
    """

    policy: Collector
    critic: Critic | None
    judging: Collector | None
    kinds: Mapping[str, KindConfig]
    group_size: int
    temperature: Callable[[str, int], float]
    """Sampling temperature for a kind of task in an iteration."""
    gate: Gate
    per_iteration: int
    """Groups that an iteration begins, and asynchronously also ends with."""
    spare: int = 0
    """Rollouts begun per task beyond those that a group needs."""
    iteration_s: float | None = None
    ahead: int = 0
    """Iterations that rollouts may be ahead of training. Unless it is 0, they go on while the trainer works."""
    faults: Callable[[], Mapping[str, float]] | None = None
    """Counts what failed in env services since it was last asked."""
    _running: dict[str, _Running] = field(default_factory=dict)
    _ended: set[str] = field(default_factory=set)
    """Names of those in ``_running`` that have ended."""
    _failure: BaseException | None = None
    """What ended a group without a result."""
    _resumed: list[PendingGroup] = field(default_factory=list)

    def __post_init__(self) -> None:
        # Who waits for everybody to wait must hear of those that end instead.
        self.policy.note_end = lambda: self.gate.news.set()

    @property
    def room(self) -> int:
        """How many tasks the next iteration should begin."""
        return max(0, self.per_iteration * (1 + self.ahead) - len(self._running) - len(self._resumed))

    def beside(self, work: Callable[[], T]) -> T:
        """Do the trainer's work, and let rollouts go on meanwhile if they are ahead of it."""
        if not self.ahead:
            return work()
        result: T = self.policy.run(asyncio.to_thread(work))
        return result

    def save(self, folder: Path) -> None:
        """Add what is under way to a checkpoint."""
        (folder / IN_FLIGHT).write_text(json.dumps([record_of(r.group) for r in self._running.values()]))

    def load(self, folder: Path) -> None:
        """Take up what ``save`` wrote: the next ``collect`` goes on with it."""
        path = folder / IN_FLIGHT
        records = json.loads(path.read_text()) if path.exists() else []
        self._resumed = [group_from(record, self.policy) for record in records]

    def collect(self, tasks: Sequence[Task], *, iteration: int) -> Harvest:
        """Rollouts of these tasks, and of those before that are still pending, as far as they end in this iteration.

        Tasks that a critic of no weight would rank are left out: nobody could score them. Raises ``WorkerFailedError``
        if no engine of the policy is left.
        """
        harvest: Harvest = self.policy.run(self._collect(tasks, iteration))
        return harvest

    async def _collect(self, tasks: Sequence[Task], iteration: int) -> Harvest:
        self.gate.open()
        while self._resumed:
            self._run(self._resumed.pop(0))
        for number, task in enumerate(tasks):
            if self._takes(task):
                self._begin(task, f"train/{iteration}/{number}", self.temperature(task.kind, iteration))
        learning = asyncio.create_task(self._lessons(iteration))
        try:
            await self._until_ripe()
            ripe = [name for name in self._running if name in self._ended]
            ripe = ripe[: self.per_iteration] if self.ahead else ripe
            done = [self._running.pop(name) for name in ripe]
            self._ended -= set(ripe)
            groups = [running.future.result() for running in done]
            lessons = await learning
        except BaseException:
            for future in (*(running.future for running in self._running.values()), learning):
                future.cancel()
            raise
        verified = [running for running in done if running.scored_at]
        if self.critic is not None:
            self.critic.prepare([running.future.result() for running in verified], iteration=iteration)
        now = time.monotonic()
        sampled_at = now if self._running else min(self.policy.sampled_at, now)
        checked_at = max([sampled_at, *(running.scored_at for running in verified)])
        return Harvest(
            groups=groups,
            lessons=lessons,
            reward_s=checked_at - sampled_at,
            judge_s=max(0.0, now - checked_at),
            pending=len(self._running),
            faults={} if self.faults is None else self.faults(),
        )

    async def _until_ripe(self) -> None:
        """Until every group has ended, or the iteration's time or everybody's allowance is used up; then shut the gate.

        Groups whose rollouts have all ended are waited for: their judgements belong to this iteration. Rollouts that
        are ahead are not paused, and as many groups are waited for as an iteration needs.
        """
        most = 0 if not self.ahead else max(0, len(self._running) - self.per_iteration)
        deadline = None if self.iteration_s is None else time.monotonic() + self.iteration_s
        while len(self._running) - len(self._ended) > most and not self._all_wait():
            self.gate.news.clear()
            left = None if deadline is None else deadline - time.monotonic()
            try:
                await asyncio.wait_for(self.gate.news.wait(), left)
            except TimeoutError:
                break
            if self._failure is not None:
                raise self._failure
        if self.ahead:
            return
        await self.gate.shut()
        sampled = [r.future for r in self._running.values() if not r.group.episodes]
        await asyncio.gather(*sampled)

    def _begin(self, task: Task, stream: str, temperature: float) -> None:
        own = self.kinds.get(task.kind, KindConfig())
        group = self.policy.begin(
            task,
            size=own.group_size or self.group_size,
            spare=self.spare,
            temperature=temperature,
            stream=stream,
        )
        self._run(group)

    def _run(self, group: PendingGroup) -> None:
        running = _Running(group=group)
        running.future = asyncio.create_task(self._complete(running))
        running.future.add_done_callback(partial(self._note_end, group.stream))
        self._running[group.stream] = running

    def _note_end(self, name: str, future: asyncio.Task[RolloutGroup]) -> None:
        if name in self._running and not future.cancelled():
            self._ended.add(name)
            self._failure = self._failure or future.exception()
        self.gate.news.set()

    def _all_wait(self) -> bool:
        """Whether all that is unfinished waits at the gate."""
        if not self.gate.waiting:
            return False
        return len(self.gate.waiting) == sum(len(running.group.episodes) for running in self._running.values())

    def _ranks(self, task: Task) -> bool:
        return self.critic is not None and self.critic.ranks(task)

    def _takes(self, task: Task) -> bool:
        return self.critic is None or not self.critic.ranks(task) or self.critic.weight > 0

    async def _complete(self, running: _Running) -> RolloutGroup:
        group = await self.policy.finish(running.group)
        own = self.kinds.get(group.task.kind, KindConfig())
        if self.critic is None or not self.critic.ranks(group.task):
            running.scored_at = time.monotonic()
            return replace(group, weight=own.weight)
        return replace(await self.critic.rank(group), weight=own.weight * self.critic.weight)

    async def _lessons(self, iteration: int) -> list[RolloutGroup]:
        if self.critic is None or self.judging is None:
            return []
        refresh, comparisons = self.critic.refresh, self.critic.pending
        if self.critic.supervised:
            return [self.critic.lesson(task) for task in comparisons]
        try:
            judged = await asyncio.gather(
                *(
                    self.judging.finish(
                        self.judging.begin(
                            task,
                            size=refresh.group_size,
                            temperature=self.temperature("judge", iteration),
                            stream=f"refresh/{iteration}/{number}",
                        )
                    )
                    for number, task in enumerate(comparisons)
                )
            )
        except WorkerFailedError:
            # The last engine of a separate critic: the policy goes on without it, on what verifiers say.
            self.critic.judge.faults["engine"] += len(comparisons) * refresh.group_size
            return []
        return [replace(group, weight=refresh.weight) for group in judged]
