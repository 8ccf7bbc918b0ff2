"""The processes of a run: reward workers, engines and trainer ranks, started side by side and ended with the run."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from rewards.pool import RewardPool
from rl.config import Config, CriticMode, Placement, Transport
from rl.prepare import EvaluationSet, Parts, verified
from rl.schedules import learning_rate
from rl.tasks import first_tasks
from rl.types import EndReason, Rollout, Task


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Handles of everything that runs beside the driver. ``run`` runs a coroutine on their event loop."""

    trainer: Any
    pool: Any
    channel: Any
    """The way from trainer to engines."""
    critic_trainer: Any
    critic_channel: Any
    """None unless the critic is separate."""
    critic_pool: Any
    """None unless the critic has engines of its own."""
    env_pool: Any
    """None if environments run in the driver."""
    run: Callable[..., Any]


@contextmanager
def reward_pool(config: Config, parts: Parts) -> Iterator[RewardPool]:
    """The processes that rewards run in, tried out with an empty reply to each kind of task; they end with the context.

    Raises ``ValueError`` if the reward fails at that.
    """
    workers = config.reward_pool.workers or min(8, len(os.sched_getaffinity(0)))
    tasks = [*parts.held_out, *verified(config, first_tasks(parts.train, 64))]
    with _pool(config, config.reward, tasks, workers) as pool:
        yield pool


@contextmanager
def set_pool(config: Config, extra: EvaluationSet) -> Iterator[RewardPool]:
    """The process that scores an evaluation set of its own."""
    with _pool(config, extra.reward, extra.tasks, 1) as pool:
        yield pool


@contextmanager
def _pool(config: Config, reward: dict[str, Any], tasks: list[Task], workers: int) -> Iterator[RewardPool]:
    settings = config.reward_pool
    pool = RewardPool(reward, workers=workers, deadline_s=settings.deadline_s, memory_mib=settings.memory_mib)
    try:
        pool.ready()
        for task in {task.kind: task for task in tasks}.values():
            silent = Rollout(task_id=task.id, segments=(), messages=(), end_reason=EndReason.STOP)
            score = asyncio.run(pool.score(task, silent))
            if score.fault is not None:
                raise ValueError(f"reward: it fails on an empty reply to task {task.id} ({score.fault}): {score.error}")
            if score.questions and config.critic.mode is CriticMode.none:
                raise ValueError(
                    f"critic.mode must not be none, because the reward of task {task.id} leaves questions to a judge; "
                    "choose critic=self, for example"
                )
        yield pool
    finally:
        pool.close()


@contextmanager
def start_workers(config: Config, parts: Parts, say: Callable[[str], None]) -> Iterator[Workers]:
    """Trainer ranks and engines, the critic's too, started side by side; all end with the context."""
    from rl.workers import placement

    say("starting Ray")
    placement.connect(config.cluster)
    try:
        say("starting engines and trainer ranks")
        teams = [_Team(config, parts, "", config.rollout.workers, trains=True)]
        if config.critic.mode in (CriticMode.separate, CriticMode.frozen):
            trains = config.critic.mode is CriticMode.separate
            teams.append(_Team(config, parts, "critic ", config.critic.workers, trains=trains, beside=teams[0]))
        env_pool = _env_pool(config)
        starting: dict[str, Any] = {}
        if env_pool is not None:
            starting |= {name: actor.ready.remote() for name, actor in env_pool.actors.items()}
        for team in teams:
            starting |= team.starting
        placement.wait_started(starting, config.cluster)
        with asyncio.Runner() as runner:
            policy, critic = teams[0], teams[1] if len(teams) > 1 else None
            policy.connect()
            if critic is not None:
                critic.connect()
            yield Workers(
                trainer=policy.trainer,
                pool=policy.pool,
                channel=policy.channel,
                critic_trainer=critic and critic.trainer,
                critic_pool=critic and critic.pool,
                critic_channel=critic and critic.channel,
                env_pool=env_pool,
                run=runner.run,
            )
    finally:
        placement.disconnect()


class _Team:
    """Engines, and the trainer ranks whose weights they serve, if ``trains``; otherwise those that lie on disk."""

    def __init__(
        self, config: Config, parts: Parts, name: str, count: int, *, trains: bool, beside: _Team | None = None
    ) -> None:
        from rl.workers import placement

        self._config, self._name = config, name
        self.trainer: Any = None
        self.channel: Any = None
        self.starting: dict[str, Any] = {}
        self._options = replace(engine_options(config, parts), filled=trains)
        self._ranks: list[Any] = []
        if trains:
            self._ranks, self.starting = placement.start_trainer_workers(
                _trainer_options(config, parts), config.cluster, name=f"{name}trainer rank"
            )
            self.trainer = _trainer_group(config, parts, self._ranks, name)
        self._places: list[Any] = []
        if config.cluster.placement is Placement.colocated:
            owner = self if trains or beside is None else beside
            self._places = placement.shared_places(
                owner._ranks, config.cluster, processes=config.rollout.tensor_parallel
            )
        started = [self._start(number) for number in range(count)]
        self._actors = [actor for actor, _ in started]
        self.starting |= {f"{name}rollout worker {i}": ready for i, (_, ready) in enumerate(started)}

    def _start(self, number: int) -> tuple[Any, Any]:
        from rl.workers import placement

        place = self._places[number % len(self._places)] if self._places else None
        return placement.start_rollout_worker(self._options, self._config.cluster, place)

    def connect(self) -> None:
        """Make the driver's view of the engines, and the way from trainer to them. All have started."""
        from rl.workers.channel import Channel
        from rl.workers.rollout_pool import RolloutPool

        config = self._config
        self.pool = RolloutPool(
            self._actors,
            deadline_s=config.rollout.deadline_s,
            name=f"{self._name}rollout worker",
            start=self._start,
            start_deadline_s=config.cluster.start_deadline_s,
        )
        if self.trainer is not None:
            if config.rollout.sleep:
                self.trainer.make_room = self.pool.sleep
            self.channel = Channel(
                self.trainer,
                self.pool,
                kind=transport_of(config),
                bucket_bytes=config.weights.bucket_mib * 2**20,
                deadline_s=config.weights.deadline_s,
                tensor_parallel=config.rollout.tensor_parallel,
            )


def transport_of(config: Config) -> Transport:
    """The configured transport, or the one that fits the placement."""
    if config.weights.transport is not Transport.auto:
        return config.weights.transport
    return {
        Placement.cpu: Transport.object_store,
        Placement.separate: Transport.nccl,
        Placement.colocated: Transport.cuda_ipc,
    }[config.cluster.placement]


def _env_pool(config: Config) -> Any:
    """The services that environments run in, if they do not run in the driver."""
    from rl.workers import placement
    from rl.workers.env_pool import EnvPool

    if not config.env_pool.services:
        return None
    return EnvPool(
        partial(placement.start_env_service, config.env, config.env_pool),
        count=config.env_pool.services,
        # Sooner than the deadline of those who wait behind the one that blocks.
        blocked_s=min(10.0, config.rollout.env_deadline_s / 3),
    )


def _trainer_options(config: Config, parts: Parts) -> Any:
    from rl.workers import placement
    from rl.workers.trainer_worker import TrainerOptions

    trainer, threads = config.trainer, placement.threads_of(config.cluster)
    return TrainerOptions(
        model=config.model.path,
        ranks=trainer.ranks,
        zero_stage=trainer.zero_stage,
        expert_parallel=trainer.expert_parallel,
        learning_rate=trainer.learning_rate,
        adam_betas=(trainer.adam_betas[0], trainer.adam_betas[1]),
        weight_decay=trainer.weight_decay,
        max_grad_norm=trainer.max_grad_norm,
        gradient_checkpointing=trainer.gradient_checkpointing,
        loss=parts.loss,
        importance_cap=config.algorithm.importance_cap,
        seed=config.seed,
        threads=None if threads is None else max(1, threads // trainer.ranks),
    )


def _trainer_group(config: Config, parts: Parts, ranks: list[Any], name: str) -> Any:
    """The driver's view of the policy's ranks, or with a ``name`` of a separate critic's."""
    from rl.workers.trainer_group import TrainerGroup

    trainer, updates = config.trainer, config.algorithm.updates_per_iteration
    iterations = config.iterations
    if name and parts.critic is not None:
        iterations = max(1, iterations // parts.critic.refresh.every)
    return TrainerGroup(
        ranks,
        name=f"{name}trainer rank",
        advantage=parts.advantage,
        rate=partial(
            learning_rate,
            peak=trainer.learning_rate,
            kind=trainer.schedule,
            warmup_steps=trainer.warmup_updates,
            total_steps=iterations * updates,
            floor=trainer.floor,
        ),
        updates_per_iteration=updates,
        max_staleness=config.rollout.max_staleness,
        micro_batch_tokens=trainer.micro_batch_tokens,
        deadline_s=trainer.deadline_s,
    )


def engine_options(config: Config, parts: Parts) -> Any:
    from rl.workers import placement
    from rl.workers.vllm_compat import EngineOptions

    rollout = config.rollout
    return EngineOptions(
        model=config.model.path,
        dtype=rollout.dtype.value,
        context=config.model.context,
        concurrency=rollout.concurrency,
        stop_token_ids=parts.chat.stop_token_ids,
        kv_cache_gib=rollout.kv_cache_gib,
        gpu_memory_share=rollout.gpu_memory_share,
        tensor_parallel=rollout.tensor_parallel,
        enforce_eager=rollout.enforce_eager,
        seed=config.seed,
        repetitions=rollout.repetitions,
        seeded=rollout.seeded,
        sleeps=rollout.sleep,
        constrains=config.evaluation.constrain_calls,
        threads=placement.threads_of(config.cluster),
    )


@contextmanager
def stop_on_interrupt() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C asks for a stop after the iteration, the second one stops at once."""
    asked = False

    def handle(_signal: int, _frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        print("\nstopping after this iteration; Ctrl-C again stops at once", file=sys.stderr)

    previous = signal.signal(signal.SIGINT, handle)
    try:
        yield lambda: asked
    finally:
        signal.signal(signal.SIGINT, previous)
