"""Environments on services of their own: what hangs, crashes or blocks there holds nobody else back."""

import asyncio
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import ray

from rl.collect import Collector, rollout_metrics
from rl.compose import load_config
from rl.rollout import RolloutLimits
from rl.types import EndReason, Sample, Score, Task
from rl.workers import placement
from rl.workers.calls import wait_all
from rl.workers.env_pool import EnvPool

sys.path.append(str(Path(__file__).parents[1] / "unit"))
from fakes import Letters, Uninterrupted

TURNS = 4


class Talker(Uninterrupted):
    """An engine that says "go" after a moment."""

    async def sample(self, request):
        await asyncio.sleep(0.02)
        ids = [ord("g"), ord("o"), 0]
        return Sample(token_ids=ids, logprobs=[-1.0] * 3, stopped=True, policy_version=0, generate_s=0.0)


async def score(task, rollout):
    return Score(value=1.0)


@pytest.fixture(scope="module")
def start():
    """Starts env services with the environments of ``stub_envs``, in a Ray of their own."""
    stubs = str(Path(__file__).parents[1] / "data")
    sys.path.insert(0, stubs)
    config = load_config([])
    placement.connect(config.cluster)
    specs = {name: {"_target_": f"stub_envs.{name}"} for name in ("Patient", "Raises", "Hangs", "Blocks", "Dies")}
    yield partial(placement.start_env_service, specs, config.env_pool)
    placement.disconnect()
    sys.path.remove(stubs)


@pytest.fixture
def world(start):
    """A collector over two services, and its event loop."""
    with asyncio.Runner() as runner:
        pool = EnvPool(start, count=2, blocked_s=1.5)
        wait_all({name: actor.ready.remote() for name, actor in pool.actors.items()}, deadline_s=60)
        names = ("Patient", "Raises", "Hangs", "Blocks", "Dies")
        collector = Collector(
            engine=Talker(), chat=Letters(), envs={name: partial(pool.make, name) for name in names}, score=score,
            seed=0, run=runner.run, limits=RolloutLimits(max_tokens=100, context=400, env_deadline_s=6),
        )  # fmt: skip
        yield collector, pool
        for actor in pool.actors.values():
            ray.kill(actor)


def tasks(**counts):
    return [
        Task(
            id=f"{env}-{n}", kind="math", messages=({"role": "user", "content": "a"},), env=env, fields={"turns": TURNS}
        )
        for env, count in counts.items()
        for n in range(count)
    ]


def collect(collector, **counts):
    groups = collector.collect(tasks(**counts), group_size=1, temperature=1.0, stream="s")
    return {env: [g.rollouts[0] for g in groups if g.task.env == env] for env in counts}, rollout_metrics(groups)


def whole(rollout):
    return rollout.end_reason is EndReason.ENV_END and [m["content"] for m in rollout.messages[1::2]] == [
        f"heard {n}" for n in range(1, TURNS)
    ]


def test_what_hangs_or_raises_is_a_fault_and_holds_nobody_back(world):
    collector, pool = world
    started = time.monotonic()
    rollouts, metrics = collect(collector, Patient=40, Raises=2, Hangs=2)
    assert time.monotonic() - started < 6 + 3
    assert all(map(whole, rollouts["Patient"]))
    assert ["no door" in r.error for r in rollouts["Raises"]] == [True] * 2
    assert ["no answer within 6 s" in r.error for r in rollouts["Hangs"]] == [True] * 2
    assert metrics["fault/env"] == 4
    assert pool.metrics() == {"fault/env_service": 0.0}


def test_one_that_blocks_its_service_is_a_fault_and_its_neighbours_go_on_elsewhere(world):
    collector, pool = world
    rollouts, metrics = collect(collector, Patient=30, Blocks=1)
    assert all(map(whole, rollouts["Patient"]))
    assert "blocked env service" in rollouts["Blocks"][0].error
    assert metrics["fault/env"] == 1
    assert pool.metrics() == {"fault/env_service": 1.0}


def test_one_that_kills_its_service_every_time_is_a_fault(world):
    collector, pool = world
    rollouts, _ = collect(collector, Dies=1)
    assert rollouts["Dies"][0].end_reason is EndReason.ENV_ERROR
    assert "env service" in rollouts["Dies"][0].error
    assert pool.metrics()["fault/env_service"] >= 3


def test_killing_a_service_loses_no_more_than_the_turns_in_flight(world):
    collector, pool = world
    victim = ray.get(pool.actors["env service 0"].ready.remote(), timeout=10)

    async def kill_soon():
        await asyncio.sleep(0.5)
        os.kill(victim, signal.SIGKILL)

    async def both():
        groups = [
            collector.finish(collector.begin(task, size=1, temperature=1.0, stream=task.id))
            for task in tasks(Patient=60)
        ]
        return (await asyncio.gather(*groups, kill_soon()))[:-1]

    groups = collector.run(both())
    rollouts = [g.rollouts[0] for g in groups]
    assert all(map(whole, rollouts))
    assert pool.metrics() == {"fault/env_service": 1.0}
    assert {r.completion_tokens for r in rollouts} == {3 * TURNS}, "nothing was sampled twice"
