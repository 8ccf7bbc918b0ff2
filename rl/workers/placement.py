"""Ray: start or join the cluster, and put each worker where the configuration says."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import ray

from rl.config import ClusterConfig, EnvPoolConfig, Placement
from rl.workers.calls import wait_all
from rl.workers.env_service import EnvService
from rl.workers.rollout_worker import RolloutWorker
from rl.workers.trainer_worker import TrainerOptions, TrainerWorker
from rl.workers.vllm_compat import EngineOptions


def connect(cluster: ClusterConfig) -> None:
    """Join the configured Ray cluster, or start one on this machine that ends with this process."""
    warnings.filterwarnings("ignore", category=FutureWarning, module="ray")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    # Ray gives its workers the lowest priority but four; on shared cores everything else would push the engines aside.
    os.environ.setdefault("RAY_worker_niceness", "0")
    options: dict[str, Any] = {"address": cluster.address} if cluster.address else {
        "object_store_memory": int(cluster.object_store_gib * 2**30),
        "include_dashboard": False,
    }  # fmt: skip
    ray.init(logging_level=logging.ERROR, log_to_driver=False, configure_logging=True, **options)


def disconnect() -> None:
    """Leave the cluster; ends it, and every worker, if this process started it."""
    ray.shutdown()


def threads_of(cluster: ClusterConfig) -> int | None:
    """CPU threads that engines and trainers may use on this machine; None leaves the choice to torch."""
    if cluster.placement is not Placement.cpu:
        return cluster.threads
    return cluster.threads or len(os.sched_getaffinity(0))


def start_rollout_workers(
    options: EngineOptions, cluster: ClusterConfig, *, count: int, name: str = "rollout worker"
) -> tuple[list[Any], dict[str, Any]]:
    """Create ``count`` rollout actors. Returns them and the calls that complete once they have started."""
    gpus = options.tensor_parallel if cluster.placement is Placement.separate else 0
    actor = ray.remote(num_cpus=0, num_gpus=gpus, max_concurrency=8, max_restarts=0)(RolloutWorker)
    actors = [
        actor.options(runtime_env={"env_vars": environment(options.threads)}).remote(options) for _ in range(count)
    ]
    return actors, {f"{name} {i}": a.ready.remote() for i, a in enumerate(actors)}


def start_trainer_workers(
    options: TrainerOptions, cluster: ClusterConfig, *, name: str = "trainer rank"
) -> tuple[list[Any], dict[str, Any]]:
    """Create the trainer actors. Returns them and the calls that complete once they have started."""
    gpus = 1 if cluster.placement is Placement.separate else 0
    actor = ray.remote(num_cpus=0, num_gpus=gpus, max_restarts=0)(TrainerWorker)
    actors = [
        actor.options(runtime_env={"env_vars": environment(options.threads)}).remote(rank, options)
        for rank in range(options.ranks)
    ]
    (address,) = wait_all({f"{name} 0": actors[0].address.remote()}, deadline_s=cluster.start_deadline_s)
    return actors, {f"{name} {i}": a.start.remote(*address) for i, a in enumerate(actors)}


def start_env_service(specs: Mapping[str, Any], pool: EnvPoolConfig) -> Any:
    """Create an actor for environments, on any node or one that is marked for them."""
    actor = ray.remote(num_cpus=pool.cpus, num_gpus=0, max_concurrency=8, max_restarts=0)(EnvService)
    marked = {pool.resource: 1e-3} if pool.resource else None
    options = actor.options(scheduling_strategy="SPREAD", resources=marked)
    return options.remote(dict(specs), list(sys.path))


def wait_started(calls: dict[str, Any], cluster: ClusterConfig) -> None:
    """Wait until all workers have started. Raises ``ValueError`` or ``WorkerFailedError`` for the first that fails."""
    wait_all(calls, deadline_s=cluster.start_deadline_s)


def stop(actors: Sequence[Any]) -> None:
    """End these actors now."""
    for actor in actors:
        ray.kill(actor)


def environment(threads: int | None) -> dict[str, str]:
    """Environment variables of a worker process."""
    variables = {"TOKENIZERS_PARALLELISM": "false", "PYTHONWARNINGS": "ignore"}
    if threads is not None:
        variables["OMP_NUM_THREADS"] = str(threads)
    return variables
