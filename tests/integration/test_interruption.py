"""A real engine in the middle of a request: stopped, gone on with, forgotten."""

import asyncio
from collections import deque

import pytest
import ray

from rl.compose import REPOSITORY, load_config
from rl.prepare import prepare
from rl.types import SampleRequest
from rl.workers import placement
from rl.workers.rollout_pool import RolloutPool
from rl.workers.vllm_compat import EngineOptions

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def system():
    config = load_config(["rollout.max_tokens=400"])
    parts = prepare(config)
    options = EngineOptions(
        model=str(REPOSITORY / "models/starter"), dtype="float32", context=512, concurrency=64,
        stop_token_ids=parts.chat.stop_token_ids, kv_cache_gib=0.1, gpu_memory_share=0.5, tensor_parallel=1,
        enforce_eager=True, seed=0, threads=1,
    )  # fmt: skip
    placement.connect(config.cluster)
    actors, starting = placement.start_rollout_workers(options, config.cluster, count=1)
    placement.wait_started(starting, config.cluster)
    with asyncio.Runner() as runner:
        pool = RolloutPool(actors, deadline_s=60)
        yield runner, pool, parts.chat.prompt_ids([{"role": "user", "content": "What is 517+953?"}])
    placement.disconnect()


def request(prompt, tokens, session, **options):
    settings = {"temperature": 0.0, "seed": 0, "ignore_eos": True} | options
    return SampleRequest(prompt_ids=prompt, max_tokens=tokens, session=session, **settings)


def on_engine(pool, scene):
    """What ``scene`` returns, which is called with the worker's engine, on the thread that steps it."""
    call = pool.engines()[0].actor.__ray_call__.remote(lambda worker: worker._on_engine(lambda: scene(worker._engine)))
    return ray.get(call)


def test_what_was_sampled_before_an_interruption_is_kept_and_the_rest_follows(system):
    runner, pool, prompt = system

    async def broken_off():
        whole = await pool.sample(request(prompt, 300, "whole"))
        first = asyncio.create_task(pool.sample(request(prompt, 300, "broken")))
        other = asyncio.create_task(pool.sample(request(prompt, 300, "other")))
        await asyncio.sleep(0.15)
        await pool.interrupt({"broken"})
        begun = await first
        ids = [*prompt, *begun.token_ids]
        rest = await pool.sample(request(ids, 300 - len(begun.token_ids), "broken"))
        return whole, begun, rest, await other

    whole, begun, rest, other = runner.run(broken_off())
    assert not whole.interrupted
    assert begun.interrupted
    assert not begun.stopped
    assert 0 < len(begun.token_ids) < 300
    assert [*begun.token_ids, *rest.token_ids] == list(whole.token_ids)
    together = [*begun.logprobs, *rest.logprobs]
    assert max(abs(a - b) for a, b in zip(together, whole.logprobs, strict=True)) < 1e-3
    assert list(other.token_ids) == list(whole.token_ids)
    assert not other.interrupted
    assert rest.cached_tokens >= 32 * ((len(prompt) + len(begun.token_ids)) // 32 - 1), "its prefix was still there"


def test_a_request_that_nobody_waits_for_any_more_is_dropped(system):
    runner, pool, prompt = system

    async def left():
        calls = [asyncio.create_task(pool.sample(request(prompt, 400, str(i)))) for i in range(8)]
        await asyncio.sleep(0.1)
        for call in calls:
            call.cancel()
        done = await asyncio.gather(*calls, return_exceptions=True)
        after = await pool.sample(request(prompt, 3, "after"))
        return done, after

    done, after = runner.run(left())
    assert all(isinstance(error, asyncio.CancelledError) for error in done)
    assert len(after.token_ids) == 3
    assert all(not engine.waiting for engine in pool.engines())


def test_a_batch_in_flight_is_nobodys_once_its_request_is_interrupted(system):
    _, pool, prompt = system
    wanted = request(prompt * 4, 60, "")

    def scene(engine):
        core = engine._engine.engine_core.engine_core
        usual = core.step_fn, core.batch_queue, core.batch_queue_size

        def in_flight():
            return any(batch.total_num_scheduled_tokens for _, batch, _ in core.batch_queue)

        def answer():
            engine.add("same", wanted)
            ended = []
            while engine.busy:
                ended += engine.step()
            return ended

        whole = answer()
        try:
            # As with async scheduling on a GPU, a batch is begun before what came of the last one is known.
            core.step_fn, core.batch_queue, core.batch_queue_size = core.step_with_batch_queue, deque(maxlen=2), 2
            engine.add("same", wanted)
            for _ in range(30):
                engine.step()
            while not in_flight():
                engine.step()
            begun = engine.interrupt()
            again = answer()
            engine.add("same", wanted)
            engine.step()
            nothing = engine.interrupt()
            assert in_flight()
            engine._forget_prefixes()
            assert not core.batch_queue
            forgotten = answer()
        finally:
            engine._drain()
            core.step_fn, core.batch_queue, core.batch_queue_size = usual
        return *whole, *begun, *again, *nothing, *forgotten

    whole, begun, again, nothing, forgotten = on_engine(pool, scene)
    assert begun.interrupted
    assert 0 < len(begun.token_ids) == len(begun.logprobs) < 60
    assert begun.token_ids == whole.token_ids[: len(begun.token_ids)]
    assert again.token_ids == forgotten.token_ids == whole.token_ids
    assert max(abs(a - b) for a, b in zip(again.logprobs, whole.logprobs, strict=True)) < 1e-3
    assert begun.cached_tokens == again.cached_tokens == 32 * ((4 * len(prompt) - 1) // 32) > 0
    assert forgotten.cached_tokens == 0
    assert nothing.interrupted
    assert nothing.token_ids == nothing.logprobs == []


def test_a_request_draws_from_its_own_seed_unless_the_engine_does_without(system):
    _, pool, prompt = system
    wanted = request(prompt, 40, "", temperature=1.0, seed=7)

    def scene(engine):
        def two():
            engine.add("one", wanted)
            engine.add("other", wanted)
            ended = []
            while engine.busy:
                ended += engine.step()
            return [answer.token_ids for answer in ended]

        seeded = two()
        engine._seeded = False
        try:
            return seeded, two()
        finally:
            engine._seeded = True

    (first, second), (third, fourth) = on_engine(pool, scene)
    assert first == second
    assert third != fourth
