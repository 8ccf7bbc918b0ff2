"""``closedloop bench scale``: time of a transfer against the number of engines and the bytes, measured and on paper.

Measured is what this machine shows with many small engines. What a transfer costs on a large cluster is worked out from
the speed of one broadcast: all engines receive the same bytes at the same time, so the number of engines adds only the
steps that a broadcast's tree or ring has more of.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

from rl.config import Config, Transport
from scripts.bench import w1
from scripts.bench.machine import describe, keep, show, small_system
from scripts.bench.sync import ROUNDS

ENGINES = (1, 2, 4)
LAYERS = (1, 2)
PAPER_PARAMETERS, PAPER_GB_PER_S = 1.04e12, (25.0, 50.0, 100.0)
"""Kimi K2's size, and speeds of one broadcast: half and a whole 400 Gb/s link per GPU, and two of them."""


def scale(config: Config) -> int:
    """Measure and print; returns the exit status."""
    from rl.workers.rollout_pool import RolloutPool

    config.rollout.workers = max(ENGINES)
    config.rollout.kv_cache_gib = 0.05
    rows: list[dict[str, Any]] = []
    for layers in LAYERS:
        with small_system(config, model=w1.model_folder(layers=layers), context=w1.CONTEXT) as system:
            for kind in (Transport.nccl, Transport.object_store, Transport.cuda_ipc):
                for count in ENGINES:
                    channel = system.channel(RolloutPool(system.engines[:count], deadline_s=600), kind)
                    times, nbytes = [], 0
                    for _ in range(ROUNDS):
                        begin = time.monotonic()
                        nbytes = channel.transfer()[0].nbytes
                        times.append(time.monotonic() - begin)
                    channel.close()
                    row = {"transport": kind.value, "engines": count, "mib": nbytes / 2**20}
                    rows.append(row | {"transfer_s": statistics.median(times[2:])})
                    show(rows[-1])
    gigabytes = 2 * PAPER_PARAMETERS / 1e9
    paper = [
        {"gb_per_s": speed, "bf16_s": gigabytes / speed, "fp8_s": gigabytes / 2 / speed} for speed in PAPER_GB_PER_S
    ]
    for line in paper:
        show(line)
    keep("scale", {"machine": describe(), "measured": rows, "paper": paper})
    return 0
