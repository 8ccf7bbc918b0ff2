"""One iteration's rollouts: verified tasks, tasks that the critic ranks, and comparisons that it learns from, at once.

    verified tasks ──► groups ──► scores ──────────────► update
                                    └─► comparisons with a known answer, for the next iteration
    other tasks ─────► groups ──► judged pairwise ─────► update
    comparisons of the last iteration ──► judgements ──► update

Nothing here waits for anything else: a group is judged while others are still sampled, and the critic's lessons are
sampled beside the policy's rollouts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from critic.critic import Critic
from rl.collect import Collector
from rl.config import KindConfig
from rl.errors import WorkerFailedError
from rl.types import RolloutGroup, Task


@dataclass(frozen=True, kw_only=True)
class Harvest:
    """What an iteration learns from, and the seconds in which sampling had ended but rewards or judge were at work."""

    groups: list[RolloutGroup]
    """The policy's, in the order of their tasks."""
    lessons: list[RolloutGroup]
    """The critic's: its judgements of comparisons with a known answer."""
    reward_s: float
    judge_s: float


@dataclass(frozen=True, kw_only=True)
class JointCollector:
    """Collects what one iteration trains on. ``judging`` samples and scores the critic's own judgements."""

    policy: Collector
    critic: Critic | None
    judging: Collector | None
    kinds: Mapping[str, KindConfig]
    group_size: int
    temperature: float

    def collect(self, tasks: Sequence[Task], *, iteration: int) -> Harvest:
        """Rollouts of all tasks. Those that a critic of no weight would rank are left out: nobody could score them.

        Raises ``WorkerFailedError`` if no engine of the policy is left.
        """
        harvest: Harvest = self.policy.run(self._collect(tasks, iteration))
        return harvest

    async def _collect(self, tasks: Sequence[Task], iteration: int) -> Harvest:
        running = {
            number: asyncio.create_task(self._group(task, f"train/{iteration}/{number}"))
            for number, task in enumerate(tasks)
            if self._takes(task)
        }
        learning = asyncio.create_task(self._lessons(iteration))
        verified = [future for number, future in running.items() if not self._ranks(tasks[number])]
        try:
            checked = await asyncio.gather(*verified)
            checked_at = time.monotonic()
            groups = await asyncio.gather(*running.values())
            lessons = await learning
        except BaseException:
            for future in (*running.values(), learning):
                future.cancel()
            raise
        if self.critic is not None:
            self.critic.prepare(checked, iteration=iteration)
        sampled_at = min(self.policy.sampled_at, time.monotonic())
        return Harvest(
            groups=groups,
            lessons=lessons,
            reward_s=max(0.0, checked_at - sampled_at),
            judge_s=time.monotonic() - max(sampled_at, checked_at),
        )

    def _ranks(self, task: Task) -> bool:
        return self.critic is not None and self.critic.ranks(task)

    def _takes(self, task: Task) -> bool:
        return self.critic is None or not self.critic.ranks(task) or self.critic.weight > 0

    async def _group(self, task: Task, stream: str) -> RolloutGroup:
        own = self.kinds.get(task.kind, KindConfig())
        group = await self.policy.group(
            task,
            size=own.group_size or self.group_size,
            temperature=self.temperature,
            stream=stream,
            max_tokens=own.max_tokens,
        )
        if self.critic is None or not self.critic.ranks(task):
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
                    self.judging.group(
                        task,
                        size=refresh.group_size,
                        temperature=self.temperature,
                        stream=f"refresh/{iteration}/{number}",
                    )
                    for number, task in enumerate(comparisons)
                )
            )
        except WorkerFailedError:
            # The last engine of a separate critic: the policy goes on without it, on what verifiers say.
            self.critic.judge.faults["engine"] += len(comparisons) * refresh.group_size
            return []
        return [replace(group, weight=refresh.weight) for group in judged]
