"""``closedloop bench scale``: time of a transfer against the number of engines and the bytes, measured and on paper.

On CPUs many small engines are measured, by every transport; on GPUs one to ``rollout.workers`` engines, by the
configured one. What a transfer costs on a large cluster is worked out from the speed of one broadcast: all engines
receive the same bytes at the same time, so the number of engines adds only the steps that a broadcast's tree or ring
has more of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rl.config import Config, Placement, Transport
from scripts.bench import w1
from scripts.bench.machine import describe, keep, show, small_system
from scripts.bench.sync import BY_PLACEMENT, LAYERS, measure

CPU_ENGINES, CPU_LAYERS = (1, 2, 4), (1, 2)
PAPER_PARAMETERS, PAPER_GB_PER_S = 1.04e12, (25.0, 50.0, 100.0)
"""Kimi K2's size, and speeds of one broadcast: half and a whole 400 Gb/s link per GPU, and two of them."""


def scale(config: Config) -> int:
    """Measure and print; returns the exit status."""
    from rl.processes import transport_of
    from rl.workers.rollout_pool import RolloutPool

    where = config.cluster.placement
    counts: Sequence[int]
    sizes: Sequence[int]
    kinds: Sequence[Transport]
    if where is Placement.cpu:
        config.rollout.workers, config.rollout.kv_cache_gib = max(CPU_ENGINES), 0.05
        counts, sizes, kinds = CPU_ENGINES, CPU_LAYERS, BY_PLACEMENT[where]
    else:
        counts, sizes, kinds = range(1, config.rollout.workers + 1), LAYERS, [transport_of(config)]
    rows: list[dict[str, Any]] = []
    for layers in sizes:
        with small_system(config, model=w1.model_folder(layers=layers), context=w1.CONTEXT) as system:
            for kind in kinds:
                for count in counts:
                    pool = RolloutPool(system.engines[:count], deadline_s=config.rollout.deadline_s)
                    rows.append({"transport": kind.value, "engines": count, **measure(system, pool, kind)})
                    show(rows[-1])
    gigabytes = 2 * PAPER_PARAMETERS / 1e9
    paper = [
        {"gb_per_s": speed, "bf16_s": gigabytes / speed, "fp8_s": gigabytes / 2 / speed} for speed in PAPER_GB_PER_S
    ]
    for line in paper:
        show(line)
    name = "scale" if where is Placement.cpu else f"scale-{where.value}"
    keep(name, {"machine": describe(), "bucket_mib": config.weights.bucket_mib, "measured": rows, "paper": paper})
    return 0
