"""Trainer and engine on one GPU, taking turns."""

import asyncio

import pytest
import torch

from rl.compose import load_config
from rl.types import SampleRequest
from scripts.bench import w1
from scripts.bench.iteration import groups_of
from scripts.bench.machine import small_system

pytestmark = pytest.mark.gpu

SWITCHES = 50
MIB = 2**20


def used():
    free, total = torch.cuda.mem_get_info()
    return (total - free) / MIB


def test_memory_returns_to_the_same_levels_over_fifty_switches():
    config = load_config(
        ["cluster=colocated", "trainer.ranks=1", "rollout.sleep=true", "rollout.enforce_eager=true",
         "rollout.kv_cache_gib=2", "weights.bucket_mib=64"]
    )  # fmt: skip
    requests = [
        SampleRequest(prompt_ids=p, max_tokens=16, temperature=1.0, seed=i, ignore_eos=True)
        for i, p in enumerate(w1.prompts(1)[: w1.GROUP_SIZE])
    ]
    sampling, learning = [], []
    with asyncio.Runner() as runner, small_system(config, model=w1.model_folder(layers=4), context=1024) as system:
        publisher = system.publisher()
        publisher.publish()

        async def sample():
            return await asyncio.gather(*map(system.pool.sample, requests))

        for _ in range(SWITCHES):
            samples = runner.run(sample())
            sampling.append(used())
            system.pool.sleep()
            learning.append(used())
            system.trainer.update(groups_of(requests, samples))
            _, metrics = publisher.publish()
            assert metrics["fault/publish"] == 0
            print(f"sampling {sampling[-1]:.0f} MiB, asleep {learning[-1]:.0f} MiB", flush=True)
    print(f"sampling {sampling[1]:.0f} to {sampling[-1]:.0f} MiB, asleep {learning[1]:.0f} to {learning[-1]:.0f} MiB")
    assert max(sampling[2:]) - min(sampling[2:]) <= 64
    assert max(learning[2:]) - min(learning[2:]) <= 64
    assert learning[2] < sampling[2] - 2048, "an engine that sleeps lets go of weights and cache"
