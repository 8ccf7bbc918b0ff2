"""What the benchmarks share: trainer, engines and the way between them without tasks, and where results are kept."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rl.advantages import group_mean
from rl.config import Config, Placement, Transport
from rl.losses import grpo
from rl.weights.publish import Publisher
from scripts.bench import w1

RESULTS = Path("docs/benchmarks")


@dataclass(frozen=True)
class System:
    """One trainer and its engines. ``starting`` is what their start took, in seconds."""

    config: Config
    trainer: Any
    engines: list[Any]
    pool: Any
    starting: float

    def channel(self, pool: Any, kind: Transport | None = None) -> Any:
        """A way from the trainer to the engines of a pool, as configured or by another transport."""
        from rl.processes import transport_of
        from rl.workers.channel import Channel

        weights = self.config.weights
        return Channel(
            self.trainer, pool, kind=kind or transport_of(self.config), bucket_bytes=weights.bucket_mib * 2**20,
            deadline_s=weights.deadline_s, tensor_parallel=self.config.rollout.tensor_parallel,
        )  # fmt: skip

    def publisher(self) -> Publisher:
        """Publishes to all engines, as in a run."""
        weights = self.config.weights
        return Publisher(
            source=self.trainer, sink=self.channel(self.pool), probe_prompts=w1.prompts(0)[: weights.probe_prompts],
            probe_tokens=weights.probe_tokens, max_mean_difference=weights.max_mean_difference,
            max_difference=weights.max_difference,
        )  # fmt: skip


@contextmanager
def small_system(config: Config, *, model: str, context: int) -> Iterator[System]:
    """Trainer ranks and engines as configured, with another model; all end with the context."""
    from rl.workers import placement
    from rl.workers.rollout_pool import RolloutPool
    from rl.workers.trainer_group import TrainerGroup
    from rl.workers.trainer_worker import TrainerOptions
    from rl.workers.vllm_compat import EngineOptions

    rollout, trainer, cluster = config.rollout, config.trainer, config.cluster
    threads = placement.threads_of(cluster)
    engine_options = EngineOptions(
        model=model, dtype=rollout.dtype.value, context=context, concurrency=rollout.concurrency, stop_token_ids=[],
        kv_cache_gib=rollout.kv_cache_gib, gpu_memory_share=rollout.gpu_memory_share,
        tensor_parallel=rollout.tensor_parallel, enforce_eager=rollout.enforce_eager, seed=0, threads=threads,
        seeded=rollout.seeded, filled=True, sleeps=rollout.sleep,
    )  # fmt: skip
    trainer_options = TrainerOptions(
        model=model, ranks=trainer.ranks, zero_stage=trainer.zero_stage,
        expert_parallel=trainer.expert_parallel, learning_rate=1e-6,
        adam_betas=(0.9, 0.999), weight_decay=0.0, max_grad_norm=1.0,
        gradient_checkpointing=trainer.gradient_checkpointing, loss=grpo, importance_cap=None, seed=0,
        threads=None if threads is None else max(1, threads // trainer.ranks),
    )  # fmt: skip
    placement.connect(cluster)
    begin = time.monotonic()
    try:
        ranks, starting = placement.start_trainer_workers(trainer_options, cluster)
        places = []
        if cluster.placement is Placement.colocated:
            places = placement.shared_places(ranks, cluster, processes=rollout.tensor_parallel)
        engines, started = placement.start_rollout_workers(
            engine_options, cluster, count=rollout.workers, places=places
        )
        placement.wait_started(starting | started, cluster)
        pool = RolloutPool(engines, deadline_s=rollout.deadline_s)
        group = TrainerGroup(
            ranks, advantage=group_mean, rate=lambda _step: 1e-6, updates_per_iteration=1,
            micro_batch_tokens=trainer.micro_batch_tokens, deadline_s=trainer.deadline_s,
        )  # fmt: skip
        if rollout.sleep:
            group.make_room = pool.sleep
        yield System(config, group, engines, pool, time.monotonic() - begin)
    finally:
        placement.disconnect()


def describe() -> dict[str, Any]:
    """The machine, as far as it explains a figure."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {"gpus": gpus, "cpu": platform.processor() or platform.machine(), "torch": torch.__version__}


def show(row: Mapping[str, Any]) -> None:
    """Print one measurement on a line."""
    print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


def keep(name: str, result: Mapping[str, Any]) -> None:
    """Write a result beside the documentation."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    print(f"kept in {path}")
