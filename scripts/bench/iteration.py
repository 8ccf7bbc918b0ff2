"""``closedloop bench iteration``: whole iterations of workload W1, with the split into rollout, update and publish."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence

from rl.config import Config
from rl.types import EndReason, Rollout, RolloutGroup, Sample, SampleRequest, Score, Segment, Task
from rl.weights.publish import Publisher
from scripts.bench import w1
from scripts.bench.machine import System, describe, keep, show, small_system

ITERATIONS, FIRST = 5, 2
"""How many iterations run, and the first that counts: before it kernels are compiled and buffers made."""


def iteration(config: Config) -> int:
    """Run them and print the median split; returns the exit status."""
    rows: list[dict[str, float]] = []
    begin = time.monotonic()
    with asyncio.Runner() as runner, small_system(config, model=w1.model_folder(), context=w1.CONTEXT) as system:
        publisher = system.publisher()
        publisher.publish()
        print(f"trainer and {len(system.engines)} engines started in {time.monotonic() - begin:.0f} s", flush=True)
        for number in range(1, ITERATIONS + 1):
            rows.append(_one(system, publisher, runner, number))
            show(rows[-1])
        peaks = system.trainer.memory()
    counted = rows[FIRST - 1 :]
    medians = {name: statistics.median(row[name] for row in counted) for name in counted[0]}
    spread = [min(row["iteration_s"] for row in counted), max(row["iteration_s"] for row in counted)]
    print(f"median of iterations {FIRST} to {ITERATIONS} (min, max of the whole: {spread[0]:.2f}, {spread[1]:.2f} s)")
    for name, value in medians.items():
        print(f"  {name:24s} {value:10.3f}")
    keep("iteration", {"machine": describe(), "median": medians, "spread_s": spread, "rows": rows, "memory": peaks})
    return 0


def _one(system: System, publisher: Publisher, runner: asyncio.Runner, number: int) -> dict[str, float]:
    requests = w1.requests(number)
    begin = time.monotonic()
    samples = runner.run(_sample(system, requests))
    sampled = time.monotonic()
    learnt = system.trainer.update(groups_of(requests, samples))
    updated = time.monotonic()
    _, published = publisher.publish()
    end = time.monotonic()
    tokens = sum(len(sample.token_ids) for sample in samples)
    return {
        "iteration_s": end - begin,
        "rollout_s": sampled - begin,
        "update_s": updated - sampled,
        "publish_s": end - updated,
        "transfer_s": published["time/publish/transfer_s"],
        "probe_s": published["time/publish/probe_s"],
        "generated_tokens_per_s": tokens / (sampled - begin),
        "logprob_gap": learnt["rollout/logprob_gap/mean"],
        "probe_gap": published["weights/probe_mean_abs_diff"],
    }


async def _sample(system: System, requests: Sequence[SampleRequest]) -> list[Sample]:
    return list(await asyncio.gather(*map(system.pool.sample, requests)))


def groups_of(requests: Sequence[SampleRequest], samples: Sequence[Sample]) -> list[RolloutGroup]:
    """Groups with made-up scores, so that every rollout has an advantage."""
    rollouts = [
        Rollout(
            task_id="w1",
            segments=(
                Segment(token_ids=request.prompt_ids, from_model=False),
                Segment(
                    token_ids=sample.token_ids,
                    from_model=True,
                    sampler_logprobs=sample.logprobs,
                    policy_version=sample.policy_version,
                ),
            ),
            messages=(),
            end_reason=EndReason.BUDGET,
        )
        for request, sample in zip(requests, samples, strict=True)
    ]
    task = Task(id="w1", kind="bench", messages=())
    return [
        RolloutGroup(
            task=task,
            rollouts=tuple(rollouts[i : i + w1.GROUP_SIZE]),
            scores=tuple(Score(value=float(len(set(r.token_ids)) % 7)) for r in rollouts[i : i + w1.GROUP_SIZE]),
        )
        for i in range(0, len(rollouts), w1.GROUP_SIZE)
    ]
