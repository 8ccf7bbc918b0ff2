"""``closedloop bench concurrency``: thousands of trajectories at once, with environments that take their time."""

from __future__ import annotations

import asyncio
import gc
import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import psutil

from envs.base import Env, Opening, Step
from rl.collect import Collector, rollout_metrics
from rl.config import Config
from rl.rollout import RolloutLimits
from rl.types import EndReason, Message, Rollout, RolloutGroup, Sample, SampleRequest, Score, Task

TRAJECTORIES, TURNS, LATENCY_S, ROUNDS = 5000, 10, 1.0, 3
DEADLINE_S = 4.0
"""For one answer of an environment: what hangs ends long before the others."""


class Slow:
    """Answers after ``LATENCY_S``. One in a hundred hangs in its second turn, and one raises."""

    async def reset(self, task: Task) -> Opening:
        self._left = TURNS
        self._fate = task.fields["number"] % 100
        return Opening(messages=task.messages)

    async def step(self, message: Message) -> Step:
        self._left -= 1
        if self._left == TURNS - 2 and self._fate == 7:
            await asyncio.sleep(3600)
        if self._left == TURNS - 2 and self._fate == 42:
            raise RuntimeError("this one crashes")
        await asyncio.sleep(LATENCY_S)
        if not self._left:
            return Step(end=EndReason.ENV_END)
        return Step(messages=[{"role": "user", "content": f"{self._left} left"}])

    async def close(self) -> None:
        pass


class Instant:
    """An engine that answers at once."""

    def __init__(self, reply: Sequence[int]) -> None:
        self._reply = tuple(reply)

    async def sample(self, request: SampleRequest) -> Sample:
        logprobs = (-0.5,) * len(self._reply)
        return Sample(token_ids=self._reply, logprobs=logprobs, stopped=True, policy_version=0, generate_s=0.0)

    async def interrupt(self, sessions: set[str]) -> None:
        pass


async def _pass(task: Task, rollout: Rollout) -> Score:
    return Score(value=1.0)


def concurrency(config: Config) -> int:
    """Seconds for ``TRAJECTORIES`` stub trajectories against the ideal, environments in the driver and on a service."""
    from rl.prepare import prepare
    from rl.workers import placement
    from rl.workers.calls import wait_all
    from rl.workers.env_pool import EnvPool

    parts = prepare(config)
    reports = []
    placement.connect(config.cluster)
    try:
        start = partial(placement.start_env_service, {"slow": {"_target_": f"{__name__}.Slow"}}, config.env_pool)
        pool = EnvPool(start, count=1, blocked_s=10)
        wait_all({name: actor.ready.remote() for name, actor in pool.actors.items()}, deadline_s=120)
        with asyncio.Runner() as runner:
            for where, make in (("driver", Slow), ("service", partial(pool.make, "slow"))):
                reports.append({"environments": where} | _rounds(parts.chat, make, runner.run))
    finally:
        placement.disconnect()
    for report in reports:
        print(
            f"{report['environments']:8s} {report['seconds']:6.2f} s of {report['ideal_s']:.0f} s ideal, "
            f"ratio {report['ratio']:.2f}; memory {report['memory_mib']} MiB after each round; "
            f"{report['faults']} faults, {report['whole']} whole trajectories"
        )
    print(json.dumps(reports))
    return 0


def _rounds(chat: Any, make: Callable[[], Env], run: Callable[..., Any]) -> dict[str, Any]:
    collector = Collector(
        engine=Instant(chat.reply_ids("on")),
        chat=chat,
        envs={"slow": make},
        score=_pass,
        seed=0,
        run=run,
        limits=RolloutLimits(max_tokens=10_000, context=100_000, env_deadline_s=DEADLINE_S),
    )
    seconds, memory = [], []
    groups: list[RolloutGroup] = []
    for _ in range(ROUNDS):
        groups = []
        gc.collect()
        started = time.monotonic()
        groups = collector.collect(_tasks(), group_size=1, temperature=1.0, stream="bench")
        seconds.append(time.monotonic() - started)
        memory.append(round(psutil.Process().memory_info().rss / 2**20))
    ideal = TURNS * LATENCY_S
    return {
        "seconds": max(seconds),
        "ideal_s": ideal,
        "ratio": max(seconds) / ideal,
        "memory_mib": memory,
        "faults": int(rollout_metrics(groups)["fault/env"]),
        "whole": sum(g.rollouts[0].end_reason is EndReason.ENV_END for g in groups),
    }


def _tasks() -> list[Task]:
    return [
        Task(
            id=str(number),
            kind="bench",
            messages=({"role": "user", "content": f"Begin with {number}."},),
            env="slow",
            fields={"number": number},
        )
        for number in range(TRAJECTORIES)
    ]
