"""Real engines and trainer ranks that are killed: what needs an engine goes on with others, what needs a rank hears."""

import asyncio
import itertools
import os
import signal
import sys
import time

import pytest
import ray
from test_publish import groups_of

from rl.compose import load_config
from rl.config import Transport
from rl.errors import WorkerFailedError
from rl.prepare import prepare
from rl.types import ON_DISK, SampleRequest
from rl.weights.publish import Publisher
from rl.workers import placement
from rl.workers.calls import wait_all
from rl.workers.channel import Channel
from rl.workers.rollout_pool import RolloutPool
from rl.workers.trainer_group import TrainerGroup
from rl.workers.trainer_worker import TrainerOptions
from rl.workers.vllm_compat import EngineOptions

pytestmark = pytest.mark.slow
ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import this file

DEADLINE_S = 60
"""Of everything that has one. What is killed must be noticed in a part of it."""
NOTICED_S = 20


class Machine:
    """One Ray, in which tests start engines and trainer ranks of the starter."""

    def __init__(self, run):
        self.config = load_config([])
        self.parts = prepare(self.config)
        self.prompts = [self.parts.chat.prompt_ids(task.messages) for task in self.parts.held_out[:24]]
        self.run = run

    def start(self, _number=0, *, filled=True):
        """An engine, and the call that completes once it has started."""
        options = EngineOptions(
            model=self.config.model.path, dtype="float32", context=512, concurrency=64,
            stop_token_ids=self.parts.chat.stop_token_ids, kv_cache_gib=0.1, gpu_memory_share=0.5, tensor_parallel=1,
            enforce_eager=True, seed=0, threads=1, filled=filled,
        )  # fmt: skip
        return placement.start_rollout_worker(options, self.config.cluster)

    def up(self, *, engines, zero_stage):
        """A pool for each number of ``engines``, and a trainer of two ranks."""
        actors, calls = [], {}
        for number in range(sum(engines)):
            actor, calls[f"engine {number}"] = self.start()
            actors.append(actor)
        ranks, starting = placement.start_trainer_workers(
            TrainerOptions(
                model=self.config.model.path, ranks=2, zero_stage=zero_stage, learning_rate=1e-3,
                adam_betas=(0.9, 0.95), weight_decay=0.0, max_grad_norm=1.0, gradient_checkpointing=False,
                loss=self.parts.loss, importance_cap=None, seed=0, threads=1,
            ),
            self.config.cluster,
        )  # fmt: skip
        placement.wait_started(calls | starting, self.config.cluster)
        rest = iter(actors)
        pools = [RolloutPool(list(itertools.islice(rest, n)), deadline_s=DEADLINE_S, start=self.start) for n in engines]
        trainer = TrainerGroup(
            ranks, advantage=self.parts.advantage, rate=lambda _step: 1e-3, updates_per_iteration=1,
            micro_batch_tokens=2048, deadline_s=DEADLINE_S,
        )  # fmt: skip
        return pools, trainer

    def publisher(self, trainer, pool, transport="object_store"):
        """Many buckets, so that there is a middle to die in."""
        channel = Channel(
            trainer, pool, kind=Transport(transport), bucket_bytes=2**15, deadline_s=DEADLINE_S, tensor_parallel=1
        )
        limits = self.config.weights
        made = Publisher(
            source=trainer, sink=channel, probe_prompts=self.prompts[:4], probe_tokens=16,
            max_mean_difference=limits.max_mean_difference, max_difference=limits.max_difference,
        )  # fmt: skip
        pool.admit = made.admit
        return made

    def requests(self):
        """Of all lengths, so that some have ended while others go on."""
        return [
            SampleRequest(
                prompt_ids=p, max_tokens=20 + 12 * i, temperature=1.0, seed=i, session=str(i), ignore_eos=True
            )
            for i, p in enumerate(self.prompts)
        ]

    def sample(self, pool, requests=None):
        async def ask():
            return await asyncio.gather(*map(pool.sample, self.requests() if requests is None else requests))

        return self.run(asyncio.wait_for(ask(), 2 * DEADLINE_S))

    def learn(self, trainer, pool):
        """New weights."""
        prompts = self.prompts[:8]
        requests = [SampleRequest(prompt_ids=p, max_tokens=24, temperature=1.0, seed=0) for p in prompts]
        trainer.update(groups_of(self.sample(pool, requests), prompts, trainer.version))

    def until_serving(self, pool, count):
        """Keep asking until so many engines serve."""
        request = SampleRequest(prompt_ids=self.prompts[0], max_tokens=2, temperature=0.0, seed=0)

        async def ask():
            while pool.metrics()["rollout/engines"] < count:
                await pool.sample(request)

        self.run(asyncio.wait_for(ask(), DEADLINE_S))


@pytest.fixture(scope="module")
def machine():
    placement.connect(load_config([]).cluster)
    try:
        with asyncio.Runner() as runner:
            yield Machine(runner.run)
    finally:
        placement.disconnect()


@pytest.fixture(scope="module")
def team(machine):
    """A pool of two engines, one of a single engine, and their trainer, whose ranks gather each bucket together."""
    (pair, single), trainer = machine.up(engines=[2, 1], zero_stage=3)
    return pair, single, trainer


def kill(actor):
    (pid,) = wait_all({"victim": actor.__ray_call__.remote(lambda _: os.getpid())}, deadline_s=DEADLINE_S)
    os.kill(pid, signal.SIGKILL)


def tokens(samples):
    return [list(sample.token_ids) for sample in samples]


@pytest.mark.parametrize("count", [2, 1])
def test_an_engine_killed_while_generating_costs_no_request(machine, team, count):
    pair, single, trainer = team
    pool = pair if count == 2 else single
    machine.publisher(trainer, pool).publish()
    pool.metrics()
    wanted = machine.sample(pool)
    victim, *others = pool.engines()

    async def killed_amid():
        answers = [asyncio.create_task(pool.sample(request)) for request in machine.requests()]
        while not any(answer.done() for answer in answers):
            await asyncio.sleep(0.01)
        owed, elsewhere = len(victim.waiting), [answer for e in others for _, answer in e.waiting.values()]
        kill(victim.actor)
        return owed, elsewhere, await asyncio.wait_for(asyncio.gather(*answers), 2 * DEADLINE_S)

    owed, elsewhere, samples = machine.run(killed_amid())
    assert owed > 0
    assert pool.metrics()["fault/engines"] == 1
    assert tokens(samples) == tokens(wanted)
    assert not any(sample.interrupted for sample in samples)
    assert {sample.policy_version for sample in samples} == {trainer.version}
    assert len(elsewhere) == 0 if count == 1 else len(elsewhere) > 0
    assert all(answer.exception() is None for answer in elsewhere), "what others owed came from them"

    machine.until_serving(pool, count)
    (replacement,) = [engine for engine in pool.engines() if engine not in others]
    assert replacement is not victim
    (asked,) = pool.probe([replacement.name], machine.requests()).values()
    assert tokens(asked) == tokens(wanted)
    assert {sample.policy_version for sample in asked} == {trainer.version}
    assert tokens(machine.sample(pool)) == tokens(wanted)
    assert replacement.poller is not None, "it serves"


def dies_loading(worker, bucket):
    from rl.weights.receive import WeightReceiver

    honest = WeightReceiver._buckets

    def buckets(receiver, specs, source, sums):
        for item in honest(receiver, specs, source, sums):
            if item[0] == bucket:
                os.kill(os.getpid(), signal.SIGKILL)
            yield item

    WeightReceiver._buckets = buckets


def dies_opening(worker, _):
    from rl.weights.receive import WeightReceiver

    WeightReceiver.open = lambda *_: os.kill(os.getpid(), signal.SIGKILL)


def dies_probed(worker, _):
    worker._engine.add = lambda *_: os.kill(os.getpid(), signal.SIGKILL)


def doom(actor, how, number):
    """From now on this actor kills itself at that."""
    wait_all({"doomed": actor.__ray_call__.remote(how, number)}, deadline_s=DEADLINE_S)


@pytest.mark.parametrize(
    ("transport", "how"),
    [("object_store", dies_loading), ("nccl", dies_loading), ("cuda_ipc", dies_loading), ("cuda_ipc", dies_probed)],
)
def test_an_engine_killed_while_it_is_published_to_is_replaced(machine, team, transport, how):
    pool, _, trainer = team
    proven = machine.publisher(trainer, pool, transport)
    before, _ = proven.publish()
    machine.learn(trainer, pool)
    victim, other = pool.engines()
    doom(victim.actor, how, 3)
    pool.metrics()
    started = time.monotonic()
    version, metrics = proven.publish()
    took = time.monotonic() - started
    print(f"{transport} {how.__name__}: {took:.1f} s")
    assert took < NOTICED_S
    assert pool.metrics()["fault/engines"] == 1
    assert other in pool.engines()
    assert victim.lost
    assert version.number == trainer.version > before.number
    assert version.digest != before.digest

    machine.until_serving(pool, 2)
    answers = list(pool.probe([engine.name for engine in pool.engines()], machine.requests()).values())
    assert len(answers) == 2
    assert tokens(answers[0]) == tokens(answers[1])
    assert {sample.policy_version for samples in answers for sample in samples} == {version.number}
    again, metrics = proven.publish()
    assert again == version
    assert metrics["weights/engines"] == 2
    assert metrics["fault/publish"] == 0
    assert pool.metrics()["fault/engines"] == 0


def test_the_only_engine_killed_while_loading_is_replaced(machine, team):
    _, pool, trainer = team
    proven = machine.publisher(trainer, pool)
    proven.publish()
    (victim,) = pool.engines()
    doom(victim.actor, dies_loading, 3)
    pool.metrics()
    version, metrics = proven.publish()
    assert metrics["weights/engines"] == 1
    assert pool.metrics()["fault/engines"] == 1
    assert {sample.policy_version for sample in machine.sample(pool)} == {version.number}


def test_an_engine_killed_while_it_is_admitted_is_replaced(machine, team):
    pool, _, trainer = team
    proven = machine.publisher(trainer, pool, "nccl")
    proven.publish()
    pool.metrics()
    name = pool.add()
    newcomer = pool.engine(name)
    wait_all({"newcomer": newcomer.actor.ready.remote()}, deadline_s=DEADLINE_S)
    doom(newcomer.actor, dies_loading, 3)
    machine.until_serving(pool, 3)
    assert newcomer.lost


@pytest.mark.parametrize(("transport", "how"), [("nccl", None), ("cuda_ipc", dies_opening)])
def test_an_engine_that_is_found_dead_when_a_route_is_opened_is_replaced(machine, team, transport, how):
    pool, _, trainer = team
    victim, *others = pool.engines()
    if how is None:
        kill(victim.actor)
    else:
        doom(victim.actor, how, 0)
    pool.metrics()
    started = time.monotonic()
    _, metrics = machine.publisher(trainer, pool, transport).publish()
    print(f"{transport}: {time.monotonic() - started:.1f} s")
    assert time.monotonic() - started < NOTICED_S
    assert metrics["fault/publish"] == 0
    assert pool.metrics()["fault/engines"] == 1
    machine.until_serving(pool, 1 + len(others))


def test_an_added_engine_serves_almost_as_soon_as_one_that_reads_its_weights_from_disk(machine, team):
    pool, _, trainer = team
    machine.publisher(trainer, pool, "nccl").publish()
    short, long = (
        SampleRequest(prompt_ids=machine.prompts[0], max_tokens=n, temperature=1.0, seed=0, ignore_eos=True)
        for n in (4, 300)
    )
    (wanted,) = machine.sample(pool, [long])

    async def added():
        newcomer = pool.engine(pool.add())
        while newcomer.poller is None:
            await pool.sample(short)  # the others are at work, so it is the newcomer's as soon as that serves

    async def plain():
        actor, ready = machine.start(filled=False)
        await asyncio.to_thread(placement.wait_started, {"plain": ready}, machine.config.cluster)
        sample = await RolloutPool([actor], deadline_s=DEADLINE_S).sample(short)
        assert sample.policy_version == ON_DISK
        placement.stop([actor])

    async def beside_others(start):
        """How long it takes while all others are at work, and what they said meanwhile."""
        over, said = asyncio.Event(), []

        async def ask():
            while not over.is_set():
                said.append(await pool.sample(long))

        asking = [asyncio.create_task(ask()) for _ in pool.engines()]
        started = time.monotonic()
        await start()
        took = time.monotonic() - started
        over.set()
        await asyncio.gather(*asking)
        return took, said

    took = {added: [], plain: []}
    for start in (added, plain, added, plain):
        seconds, said = machine.run(asyncio.wait_for(beside_others(start), 2 * DEADLINE_S))
        took[start].append(seconds)
        assert not any(sample.interrupted for sample in said)
        assert {tuple(sample.token_ids) for sample in said} == {tuple(wanted.token_ids)}
    print({start.__name__: [f"{s:.1f} s" for s in seconds] for start, seconds in took.items()})
    assert min(took[added]) <= 2 * min(took[plain])


def dies_sending(worker, bucket):
    lay, calls = worker._sender._lay, itertools.count()

    def fatal(plan, buffer):
        if next(calls) == bucket:
            os.kill(os.getpid(), signal.SIGKILL)
        lay(plan, buffer)

    worker._sender._lay = fatal


def check_named(proven, rank):
    started = time.monotonic()
    with pytest.raises(WorkerFailedError, match=rf"^trainer rank {rank} failed: "):
        proven.publish()
    took = time.monotonic() - started
    print(f"rank {rank}: {took:.1f} s")
    assert took < NOTICED_S


@pytest.mark.parametrize(
    ("transport", "zero_stage", "rank"), [("object_store", 3, 1), ("nccl", 2, 0), ("cuda_ipc", 3, 0)]
)
def test_a_trainer_rank_killed_while_it_sends_is_named_at_once(machine, transport, zero_stage, rank):
    (pool,), trainer = machine.up(engines=[1], zero_stage=zero_stage)
    proven = machine.publisher(trainer, pool, transport)
    proven.publish()
    doom(trainer._actors[rank], dies_sending, 3)
    check_named(proven, rank)
    placement.stop([*trainer._actors, *(engine.actor for engine in pool.engines())])


def test_a_trainer_rank_is_named_even_if_an_engine_died_with_it(machine, team):
    pool, _, trainer = team
    proven = machine.publisher(trainer, pool, "nccl")
    proven.publish()
    kill(pool.engines()[0].actor)
    kill(trainer._actors[0])
    check_named(proven, 0)
