"""Ray: start or join the cluster, and put each worker where the configuration says."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

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


@dataclass(frozen=True)
class Place:
    """A node and the GPUs of a worker there, as CUDA numbers them on that node."""

    node: str
    gpus: tuple[str, ...]


def start_rollout_worker(options: EngineOptions, cluster: ClusterConfig, place: Place | None = None) -> tuple[Any, Any]:
    """Create a rollout actor, on GPUs of its own or on those of ``place``.

    Returns it and the call that completes once it has started.
    """
    own = options.tensor_parallel if cluster.placement is Placement.separate else 0
    actor = ray.remote(num_cpus=0, num_gpus=own, max_concurrency=8, max_restarts=0)(RolloutWorker)
    variables = environment(options.threads)
    strategy = None
    if place is not None:
        # Ray counts these GPUs as the trainer's, and leaves the variable of a worker without any alone.
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(place.gpus)
        strategy = NodeAffinitySchedulingStrategy(place.node, soft=False)
    started = actor.options(runtime_env={"env_vars": variables}, scheduling_strategy=strategy).remote(options)
    return started, started.ready.remote()


def start_rollout_workers(
    options: EngineOptions,
    cluster: ClusterConfig,
    *,
    count: int,
    name: str = "rollout worker",
    places: Sequence[Place] = (),
) -> tuple[list[Any], dict[str, Any]]:
    """Create ``count`` rollout actors. Returns them and the calls that complete once they have started."""
    at = [places[i % len(places)] if places else None for i in range(count)]
    started = [start_rollout_worker(options, cluster, place) for place in at]
    return [actor for actor, _ in started], {f"{name} {i}": ready for i, (_, ready) in enumerate(started)}


def shared_places(ranks: Sequence[Any], cluster: ClusterConfig, *, processes: int) -> list[Place]:
    """Where engines of so many processes may stand if they share the trainer ranks' GPUs, in the ranks' order.

    Raises ``ValueError`` if the GPUs of one engine would lie on several nodes.
    """
    calls = {f"trainer rank {i}": rank.place.remote() for i, rank in enumerate(ranks)}
    single = wait_all(calls, deadline_s=cluster.start_deadline_s)
    places = []
    for first in range(0, len(single) - processes + 1, processes):
        together = single[first : first + processes]
        if len({node for node, _ in together}) > 1:
            raise ValueError(
                f"rollout.tensor_parallel must not exceed the GPUs of one node with cluster.placement=colocated, got "
                f"{processes} over {len({node for node, _ in together})} nodes"
            )
        places.append(Place(together[0][0], tuple(gpu for _, gpu in together)))
    return places


def start_trainer_workers(
    options: TrainerOptions, cluster: ClusterConfig, *, name: str = "trainer rank"
) -> tuple[list[Any], dict[str, Any]]:
    """Create the trainer actors. Returns them and the calls that complete once they have started."""
    gpus = 0 if cluster.placement is Placement.cpu else 1
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
    variables = {
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONWARNINGS": "ignore",
        # A broadcast that fails must not take down the process: whoever runs it notices and starts over.
        "TORCH_NCCL_ASYNC_ERROR_HANDLING": "2",
    }
    if threads is not None:
        variables["OMP_NUM_THREADS"] = str(threads)
    return variables
