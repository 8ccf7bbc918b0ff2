"""``closedloop bench sync``: how fast weights get from the trainer into the engines, by each transport.

Timed are the transfer, from the call to the last engine's answer, and the time until an engine that was told to sample
right after it has the first token from the new weights. Digests are computed and compared on the way, as in a run.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from rl.config import Config, Placement, Transport
from rl.types import SampleRequest
from scripts.bench import w1
from scripts.bench.machine import System, describe, keep, show, small_system

LAYERS = (4, 16)
"""Of workload W1's model: 0.3 and 0.9 G parameters."""
ROUNDS, FIRST = 7, 2
"""Transfers by each transport, and the first that counts: the first ones open the route and learn the layout."""
BY_PLACEMENT = {
    Placement.cpu: tuple(kind for kind in Transport if kind is not Transport.auto),
    Placement.separate: (Transport.nccl, Transport.object_store),
    Placement.colocated: (Transport.cuda_ipc, Transport.object_store),
}


def sync(config: Config) -> int:
    """Measure and print; returns the exit status."""
    results: list[dict[str, Any]] = []
    for layers in LAYERS:
        with small_system(config, model=w1.model_folder(layers=layers), context=w1.CONTEXT) as system:
            for kind in BY_PLACEMENT[config.cluster.placement]:
                results.append({"layers": layers, "transport": kind.value, **measure(system, system.pool, kind)})
                show(results[-1])
    rollout, trainer = config.rollout, config.trainer
    shape = {
        "engines": rollout.workers,
        "tensor_parallel": rollout.tensor_parallel,
        "ranks": trainer.ranks,
        "zero_stage": trainer.zero_stage,
        "expert_parallel": trainer.expert_parallel,
        "bucket_mib": config.weights.bucket_mib,
    }
    name = (
        f"sync-{config.cluster.placement.value}-engines{rollout.workers}-ranks{trainer.ranks}-zero{trainer.zero_stage}"
    )
    if rollout.tensor_parallel > 1:
        name += f"-tp{rollout.tensor_parallel}"
    if trainer.expert_parallel > 1:
        name += f"-ep{trainer.expert_parallel}"
    keep(name, {"machine": describe(), **shape, "results": results})
    return 0


def measure(system: System, pool: Any, kind: Transport) -> dict[str, Any]:
    """Medians of transfers to the engines of a pool by one transport, and the GPU memory that these took."""
    channel = system.channel(pool, kind)
    before = system.trainer.memory()
    rows = [_one(pool, channel) for _ in range(ROUNDS)]
    after = system.trainer.memory()
    counted = rows[FIRST:]
    channel.close()
    median = {name: statistics.median(row[name] for row in counted) for name in counted[0]}
    return {
        **median,
        "gib_per_s": median["gib"] / median["transfer_s"],
        "opening_s": rows[0]["transfer_s"],
        **_extra_memory(system, before, after),
    }


def _one(pool: Any, channel: Any) -> dict[str, float]:
    names = [engine.name for engine in pool.engines()]
    request = SampleRequest(prompt_ids=w1.prompts(0)[0], max_tokens=1, temperature=0.0, seed=0, ignore_eos=True)
    begin = time.monotonic()
    version, _ = channel.transfer()
    moved = time.monotonic()
    pool.probe(names, [request])
    return {
        "gib": version.nbytes / 2**30,
        "transfer_s": moved - begin,
        "first_token_s": time.monotonic() - begin,
    }


def _extra_memory(system: System, before: list[dict[str, float]], after: list[dict[str, float]]) -> dict[str, float]:
    """The most GPU memory that a rank took for transfers, buffers included, also in buckets. Nothing without GPUs."""
    if not before[0]:
        return {}
    extra = max(b["peak_gib"] - a["now_gib"] for a, b in zip(before, after, strict=True))
    largest = max(spec.nbytes for spec in system.trainer.layout(0)[0]) / 2**30
    bucket = max(system.config.weights.bucket_mib / 2**10, largest)
    return {"peak_extra_gib": extra, "peak_extra_buckets": extra / bucket}
