"""Many rollout groups at once: every rollout is its own coroutine, and none waits for another."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

from envs.base import Env
from rewards.scoring import settle
from rl.errors import EngineLostError
from rl.protocols import ChatCodec, Engine, Judge, Scorer
from rl.rollout import Episode, RolloutLimits
from rl.types import EndReason, Fault, Rollout, RolloutGroup, Score, Task


@dataclass(kw_only=True)
class PendingGroup:
    """A rollout group under way: by their number, rollouts that are sampled, and those that ended with their scores."""

    task: Task
    stream: str
    """Names the occasion ("train/12/3"): equal streams sample with equal seeds."""
    episodes: dict[int, Episode]
    needed: int
    """How many of its rollouts make it complete."""
    ended: dict[int, Rollout] = field(default_factory=dict)
    scores: dict[int, Score] = field(default_factory=dict)


@dataclass(kw_only=True)
class Collector:
    """Turns tasks into scored rollout groups with the engines, environments and reward of one run."""

    engine: Engine
    chat: ChatCodec
    envs: Mapping[str, Callable[[], Env]]
    score: Scorer
    limits: RolloutLimits
    seed: int
    run: Callable[[Coroutine[Any, Any, Any]], Any]
    """Runs a coroutine to its end on the event loop that the engine lives on."""
    budget: Callable[[Task], tuple[int, int]] | None = None
    """How many tokens a rollout of a task should take at most, and after how many it is cut; None for what ``limits``
    say in both cases."""
    judge: Judge | None = None
    """Answers what a reward leaves open."""
    constrain: bool = False
    """Whether tool calls can only be sampled as valid ones."""
    slots: Mapping[str, asyncio.Semaphore] = field(default_factory=dict)
    """How many calls to a kind of environment may be at work at once, where that is limited."""
    others: Mapping[str, Engine] = field(default_factory=dict)
    """Models besides the policy that environments may ask, by name."""
    note_end: Callable[[], None] | None = None
    """Called whenever a rollout has been sampled to its end."""
    sampled_at: float = 0.0
    """When the last rollout so far was sampled to its end, on the monotonic clock."""

    def collect(self, tasks: Sequence[Task], *, group_size: int, temperature: float, stream: str) -> list[RolloutGroup]:
        """Roll out and score every task ``group_size`` times.

        ``stream`` names the occasion ("evaluation"): equal streams sample with equal seeds. Groups come in the order
        of the tasks. Rollouts whose score is an error stay in their group; whoever learns from it leaves them out.
        """

        async def groups() -> list[RolloutGroup]:
            return await asyncio.gather(
                *(
                    self.finish(self.begin(task, size=group_size, temperature=temperature, stream=f"{stream}/{number}"))
                    for number, task in enumerate(tasks)
                )
            )

        result: list[RolloutGroup] = self.run(groups())
        return result

    def begin(
        self,
        task: Task,
        *,
        size: int,
        temperature: float,
        stream: str,
        spare: int = 0,
        limits: RolloutLimits | None = None,
    ) -> PendingGroup:
        """One task's group of ``size``, ready to be sampled, and ``spare`` rollouts for the slowest or failed of them.

        ``limits`` are those of the task, unless others are given.
        """
        budget, cut = self.budget(task) if self.budget else (self.limits.max_tokens,) * 2
        if limits is None:
            limits = replace(self.limits, max_tokens=cut)
        episodes = {
            k: Episode(
                name=f"{stream}/{k}",
                task=task,
                make_env=self.envs[task.env],
                engine=self.engine,
                chat=self.chat,
                limits=limits,
                temperature=temperature,
                seed=_seed(self.seed, stream, k),
                budget=budget,
                constrain=self.constrain,
                others=self.others,
                slot=self.slots.get(task.env, nullcontext()),
            )
            for k in range(size + spare)
        }
        return PendingGroup(task=task, stream=stream, episodes=episodes, needed=size)

    async def finish(self, group: PendingGroup) -> RolloutGroup:
        """Sample what is missing of a group, and score what has no score yet; what is not needed is given up."""
        attempts = {asyncio.ensure_future(self._attempt(group, k)) for k in sorted({*group.episodes, *group.ended})}
        try:
            waiting = attempts
            while waiting and sum(s.fault is None for s in group.scores.values()) < group.needed:
                done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for attempt in done:
                    attempt.result()
        finally:
            for attempt in attempts:
                attempt.cancel()
            await asyncio.gather(*attempts, return_exceptions=True)
        group.episodes.clear()
        return RolloutGroup(
            task=group.task,
            rollouts=tuple(group.ended[k] for k in sorted(group.scores)),
            scores=tuple(group.scores[k] for k in sorted(group.scores)),
        )

    async def _attempt(self, group: PendingGroup, number: int) -> None:
        if number in group.episodes:
            group.ended[number] = await self._sampled(group.episodes[number])
            del group.episodes[number]
            if self.note_end is not None:
                self.note_end()
        if number not in group.scores:
            group.scores[number] = await self._scored(group.task, group.ended[number])

    async def _sampled(self, episode: Episode) -> Rollout:
        try:
            rollout = await episode.run()
        except EngineLostError as error:
            return Rollout(
                task_id=episode.task.id,
                segments=(),
                messages=(),
                end_reason=EndReason.ABORTED,
                budget=episode.budget,
                error=str(error),
            )
        self.sampled_at = max(self.sampled_at, time.monotonic())
        return rollout

    async def _scored(self, task: Task, rollout: Rollout) -> Score:
        if rollout.end_reason in (EndReason.ABORTED, EndReason.ENV_ERROR):
            fault = Fault.ENGINE if rollout.end_reason is EndReason.ABORTED else Fault.ENV
            return Score.failed(fault, str(rollout.error))
        return await settle(await self.score(task, rollout), self.judge)


def _seed(*parts: object) -> int:
    """A 63-bit seed that depends on all parts."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


FAULT_NAMES = {Fault.ENV: "env", Fault.ENGINE: "engine", Fault.CRITIC: "critic/unranked"}
"""Faults that are not the reward's."""


def rollout_metrics(groups: Sequence[RolloutGroup]) -> dict[str, float]:
    """What a set of groups says about policy, rewards and faults (names as in ``docs/metrics.md``)."""
    rollouts = [r for g in groups for r in g.rollouts]
    scores = [s for g in groups for s in g.scores]
    good = [s.value for s in scores if s.fault is None]
    lengths = [r.completion_tokens for r in rollouts]
    logprobs = [x for r in rollouts for s in r.segments for x in s.sampler_logprobs]
    spreads = [[s.value for s in g.scores if s.fault is None] for g in groups]
    metrics = {
        "reward/mean": _mean(good),
        "reward/constant_groups": _mean([float(len(set(values)) <= 1) for values in spreads]),
        "rollout/count": float(len(rollouts)),
        "rollout/tokens": float(sum(lengths)),
        "rollout/length/mean": _mean(lengths),
        "rollout/length/max": float(max(lengths, default=0)),
        "rollout/entropy": -_mean(logprobs),
        "rollout/prefix_reuse": sum(r.cached_tokens for r in rollouts) / max(1, sum(r.prompt_tokens for r in rollouts)),
        "rollout/views": _mean([float(1 + sum(s.new_view for s in r.segments)) for r in rollouts]),
        **{f"fault/{FAULT_NAMES.get(f, f'reward/{f}')}": float(sum(s.fault is f for s in scores)) for f in Fault},
    }
    unclosed = [r for r in rollouts if r.error and r.end_reason not in (EndReason.ENV_ERROR, EndReason.ABORTED)]
    metrics["fault/env_close"] = float(len(unclosed))
    for reason in sorted({r.end_reason for r in rollouts}):
        metrics[f"rollout/end/{reason}"] = _mean([float(r.end_reason is reason) for r in rollouts])
    for part in sorted({name for s in scores for name in s.parts}):
        metrics[f"reward/part/{part}"] = _mean([s.parts[part] for s in scores if part in s.parts])
    for name, of in (("kind", lambda task: (task.kind,)), ("tag", lambda task: task.tags)):
        for value in sorted({value for g in groups for value in of(g.task)}):
            values = [s.value for g in groups if value in of(g.task) for s in g.scores if s.fault is None]
            metrics[f"reward/{name}/{value}"] = _mean(values)
    return metrics


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
