"""A real engine in the middle of a request: stopped, gone on with, forgotten."""

import asyncio

import pytest

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
        pool = RolloutPool(actors, deadline_s=60, run=runner.run)
        yield runner, pool, parts.chat.prompt_ids([{"role": "user", "content": "What is 517+953?"}])
    placement.disconnect()


def request(prompt, tokens, session, **options):
    settings = {"temperature": 0.0, "seed": 0, "ignore_eos": True} | options
    return SampleRequest(prompt_ids=prompt, max_tokens=tokens, session=session, **settings)


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
    assert all(not worker.waiting for worker in pool._workers)
