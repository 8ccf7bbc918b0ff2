"""Wiring: from a configuration to a running system. The only place where parts are put together."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import yaml

from critic.critic import Critic
from critic.judge import Judge
from rewards.pool import RewardPool
from rl.checkpoint import Checkpoints
from rl.collect import Collector
from rl.config import Config, CriticMode, KindConfig, Resume, kind_settings
from rl.critic_learner import CriticLearner
from rl.errors import RunInterrupted
from rl.evaluate import Evaluation, Evaluator
from rl.gate import Gate
from rl.joint import JointCollector
from rl.loop import System, run
from rl.prepare import EvaluationSet, Parts, prepare, verified
from rl.protocols import Engine, Scorer
from rl.rollout import RolloutLimits
from rl.schedules import learning_rate, temperature
from rl.tasks import first_tasks
from rl.tracking.console import ConsoleTracker
from rl.tracking.files import FileTracker, read_metrics, summarise
from rl.tracking.tracker import Trackers
from rl.tracking.weights_and_biases import WandbTracker
from rl.types import EndReason, Rollout, Score, Task
from rl.weights.publish import Publisher


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Handles of everything that runs beside the driver. ``run`` runs a coroutine on their event loop."""

    trainer: Any
    pool: Any
    critic_trainer: Any
    """None unless the critic is separate."""
    critic_pool: Any
    """None unless the critic has engines of its own."""
    run: Callable[..., Any]


def train(config: Config) -> Path:
    """Run the main job; returns the run folder.

    Raises ``ValueError`` for what the user can mend, ``WorkerFailedError`` and ``WeightMismatchError`` for what went
    wrong on the way, ``RunInterrupted`` after a requested stop.
    """
    parts = prepare(config)
    folder = Path(config.folder)
    fingerprint = _fingerprint(config)
    checkpoints = Checkpoints(folder / "checkpoints", keep=config.checkpoint.keep)
    done = _check_folder(config, folder, checkpoints, fingerprint)

    with stop_on_interrupt() as stop_requested, ExitStack() as cleanup:
        scorer = cleanup.enter_context(_reward_pool(config, parts))
        scorers = {name: cleanup.enter_context(_set_pool(config, extra)) for name, extra in parts.sets.items()}
        folder.mkdir(parents=True, exist_ok=True)
        plain = _plain(asdict(config))
        (folder / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
        console = ConsoleTracker(name=config.name, folder=folder, iterations=config.iterations, done=done or 0)
        trackers: list[Any] = [console, FileTracker(folder, resume_after=done)]
        cleanup.callback(console.stop)
        with _workers(config, parts, console) as workers:
            if config.tracking.wandb != "disabled":
                trackers.append(WandbTracker(config.tracking, name=config.name, folder=folder, config=plain))
            tracker = Trackers(trackers)
            console.step("measuring the starting policy" if done is None else "resuming")
            learner = _critic(config, parts, workers)
            finished = run(
                System(
                    config=config,
                    fingerprint=fingerprint,
                    stream=parts.stream,
                    collector=_joint_collector(config, parts, workers, scorer, learner.critic),
                    critic=learner,
                    shaping=parts.shaping,
                    trainer=workers.trainer,
                    publisher=_publisher(config, parts, workers.trainer, workers.pool),
                    evaluation=_evaluation(config, parts, workers, {"": scorer, **scorers}, learner),
                    checkpoints=checkpoints,
                    tracker=tracker,
                    stop_requested=stop_requested,
                    seconds_since_start=seconds_since_start,
                )
            )
        tracker.close(summarise(read_metrics(folder), total_s=seconds_since_start()))
    if finished < config.iterations:
        raise RunInterrupted(
            f"stopped after iteration {finished} of {config.iterations}; the same command goes on from there"
        )
    return folder


def _publisher(config: Config, parts: Parts, trainer: Any, pool: Any) -> Publisher:
    return Publisher(
        source=trainer,
        sink=pool,
        probe_prompts=[parts.chat.prompt_ids(t.messages) for t in parts.held_out[: config.weights.probe_prompts]],
        probe_tokens=config.weights.probe_tokens,
        max_mean_difference=config.weights.max_mean_difference,
        max_difference=config.weights.max_difference,
    )


def _critic(config: Config, parts: Parts, workers: Workers) -> CriticLearner:
    """The run's critic, or its absence."""
    critic = None
    if parts.critic is not None:
        critic = _make_critic(config, parts, workers.critic_pool or workers.pool)
    trainer = workers.critic_trainer
    return CriticLearner(
        critic=critic,
        shared=config.critic.mode is CriticMode.self,
        run=workers.run,
        folder=Path(config.folder) / "critic-before-refresh",
        trainer=trainer,
        publisher=None if trainer is None else _publisher(config, parts, trainer, workers.critic_pool),
    )


def _make_critic(config: Config, parts: Parts, engine: Engine) -> Critic:
    settings, made = config.critic, parts.critic
    assert made is not None
    return Critic(
        judge=Judge(
            engine=engine,
            chat=parts.chat,
            prompts=made.prompts,
            rubrics=made.rubrics,
            context=config.model.context,
            max_tokens=settings.max_tokens,
            temperature=settings.temperature,
            graded=settings.graded,
        ),
        kinds=frozenset(settings.kinds),
        schedule=made.pairs,
        ranking=made.ranking,
        refresh=made.refresh,
        guard=made.guard,
        pass_value=config.evaluation.pass_value,
        learns=settings.mode is not CriticMode.frozen,
    )


def _joint_collector(
    config: Config, parts: Parts, workers: Workers, scorer: RewardPool, critic: Critic | None
) -> JointCollector:
    async def score(task: Task, rollout: Rollout) -> Score:
        if critic is not None and critic.ranks(task):
            return Score(value=0.0)  # the critic's to say, once it sees the whole group
        return await scorer.score(task, rollout)

    rollout = config.rollout
    gate = Gate(engine=workers.pool, allowance=rollout.iteration_tokens)
    policy = _collector(config, parts, gate, score, workers.run, critic)
    judging = None
    if critic is not None:
        judging = _collector(config, parts, critic.judge.engine, critic.score, workers.run, critic)
        judging.limits = replace(judging.limits, max_tokens=config.critic.max_tokens)
    return JointCollector(
        policy=policy,
        critic=critic,
        judging=judging,
        kinds=kind_settings(config),
        group_size=rollout.group_size,
        temperature=partial(_temperature, config),
        gate=gate,
        per_iteration=config.tasks.per_iteration,
        iteration_s=rollout.iteration_s,
        ahead=rollout.max_staleness if rollout.asynchronous else 0,
    )


def _temperature(config: Config, kind: str, iteration: int) -> float:
    """Sampling temperature for a kind of task in an iteration."""
    own, rollout = kind_settings(config).get(kind, KindConfig()), config.rollout
    if own.temperature is not None:
        first, last = own.temperature, own.last_temperature
    else:
        first, last = rollout.temperature, own.last_temperature or rollout.last_temperature
    return temperature(iteration, first=first, last=last, iterations=config.iterations)


def _evaluation(
    config: Config, parts: Parts, workers: Workers, scorers: dict[str, RewardPool], learner: CriticLearner
) -> Evaluation:
    """The held-out tasks, which the guard decides on, and the other sets, on which it only looks."""
    settings = config.evaluation
    tasks = {"": parts.held_out} | {name: extra.tasks for name, extra in parts.sets.items()}
    return Evaluation(
        evaluators=[
            Evaluator(
                name=f"eval/{name}".rstrip("/"),
                collector=_collector(config, parts, workers.pool, scorers[name].score, workers.run, learner.critic),
                tasks=tasks[name],
                samples=settings.samples,
                temperature=settings.temperature,
                pass_value=settings.pass_value,
                watch=partial(learner.watch, name=f"{name}/".lstrip("/"), decides=not name),
            )
            for name in tasks
        ]
    )


@contextmanager
def _reward_pool(config: Config, parts: Parts) -> Iterator[RewardPool]:
    """The processes that rewards run in, tried out with an empty reply to each kind of task; they end with the context.

    Raises ``ValueError`` if the reward fails at that.
    """
    workers = config.reward_pool.workers or min(8, len(os.sched_getaffinity(0)))
    tasks = [*parts.held_out, *verified(config, first_tasks(parts.train, 64))]
    with _pool(config, config.reward, tasks, workers) as pool:
        yield pool


@contextmanager
def _set_pool(config: Config, extra: EvaluationSet) -> Iterator[RewardPool]:
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
def _workers(config: Config, parts: Parts, console: ConsoleTracker) -> Iterator[Workers]:
    """Trainer ranks and engines, the critic's too, started side by side; all end with the context."""
    from rl.workers import placement
    from rl.workers.rollout_pool import RolloutPool

    cluster, mode = config.cluster, config.critic.mode
    engines_of = {"": config.rollout.workers}
    if mode in (CriticMode.separate, CriticMode.frozen):
        engines_of["critic "] = config.critic.workers
    console.step("starting Ray")
    placement.connect(cluster)
    try:
        console.step("starting engines and trainer ranks")
        options, training = _engine_options(config, parts), _trainer_options(config, parts)
        engines: dict[str, list[Any]] = {}
        ranks: dict[str, list[Any]] = {}
        starting: dict[str, Any] = {}
        for name, count in engines_of.items():
            engines[name], up = placement.start_rollout_workers(
                options, cluster, count=count, name=f"{name}rollout worker"
            )
            starting |= up
        for name in ("", "critic ") if mode is CriticMode.separate else ("",):
            ranks[name], up = placement.start_trainer_workers(training, cluster, name=f"{name}trainer rank")
            starting |= up
        placement.wait_started(starting, cluster)
        with asyncio.Runner() as runner:
            pools = {
                name: RolloutPool(
                    actors, deadline_s=config.rollout.deadline_s, run=runner.run, name=f"{name}rollout worker"
                )
                for name, actors in engines.items()
            }
            trainers = {name: _trainer_group(config, parts, actors, name) for name, actors in ranks.items()}
            yield Workers(
                trainer=trainers[""],
                pool=pools[""],
                critic_trainer=trainers.get("critic "),
                critic_pool=pools.get("critic "),
                run=runner.run,
            )
    finally:
        placement.disconnect()


def _trainer_options(config: Config, parts: Parts) -> Any:
    from rl.workers import placement
    from rl.workers.trainer_worker import TrainerOptions

    trainer, threads = config.trainer, placement.threads_of(config.cluster)
    return TrainerOptions(
        model=config.model.path,
        ranks=trainer.ranks,
        zero_stage=trainer.zero_stage,
        learning_rate=trainer.learning_rate,
        adam_betas=(trainer.adam_betas[0], trainer.adam_betas[1]),
        weight_decay=trainer.weight_decay,
        max_grad_norm=trainer.max_grad_norm,
        gradient_checkpointing=trainer.gradient_checkpointing,
        loss=parts.loss,
        importance_cap=config.algorithm.importance_cap,
        bucket_bytes=config.weights.bucket_mib * 2**20,
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


def _engine_options(config: Config, parts: Parts) -> Any:
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
        threads=placement.threads_of(config.cluster),
    )


@contextmanager
def sampling(config: Config, parts: Parts) -> Iterator[tuple[Collector, Critic | None]]:
    """Engines with the model as it lies on disk and the reward's processes, no trainer; all end with the context.

    The critic, if there is one, judges with that model too.
    """
    from rl.workers import placement
    from rl.workers.rollout_pool import RolloutPool

    with _reward_pool(config, parts) as scorer:
        placement.connect(config.cluster)
        try:
            options = _engine_options(config, parts)
            engines, started = placement.start_rollout_workers(options, config.cluster, count=config.rollout.workers)
            placement.wait_started(started, config.cluster)
            with asyncio.Runner() as runner:
                engine = RolloutPool(engines, deadline_s=config.rollout.deadline_s, run=runner.run)
                critic = None if parts.critic is None else _make_critic(config, parts, engine)
                yield _collector(config, parts, engine, scorer.score, runner.run, critic), critic
        finally:
            placement.disconnect()


def _collector(
    config: Config, parts: Parts, engine: Engine, score: Scorer, run: Callable[..., Any], critic: Critic | None
) -> Collector:
    return Collector(
        engine=engine,
        chat=parts.chat,
        envs=parts.envs,
        score=score,
        run=run,
        limits=_limits(config),
        seed=config.seed,
        judge=None if critic is None else critic.judge,
        budgets={kind: own.max_tokens for kind, own in kind_settings(config).items() if own.max_tokens is not None},
    )


def _limits(config: Config) -> RolloutLimits:
    rollout = config.rollout
    return RolloutLimits(
        max_tokens=rollout.max_tokens,
        context=config.model.context,
        turn_tokens=rollout.turn_tokens,
        env_deadline_s=rollout.env_deadline_s,
    )


def _fingerprint(config: Config) -> dict[str, str]:
    """Settings under which a checkpoint can be continued; see ``_check_folder``."""
    return {
        "seed": str(config.seed),
        "model.path": config.model.path,
        "trainer.ranks": str(config.trainer.ranks),
        "trainer.zero_stage": str(config.trainer.zero_stage),
        "tasks.train": str(_plain(config.tasks.train)),
        "critic.mode": config.critic.mode.value,
        "tasks.stream": str(_plain(config.tasks.stream)),
    }


def _check_folder(config: Config, folder: Path, checkpoints: Checkpoints, fingerprint: dict[str, str]) -> int | None:
    """Iterations of the checkpoint to go on from, None to start anew. Raises ``ValueError`` if neither may be."""
    found = checkpoints.newest()
    if config.resume is Resume.never and (folder / "metrics.jsonl").exists():
        raise ValueError(f"folder must not hold a run with resume=never, got {folder}; choose another name or folder")
    if found is None:
        return None
    state, _ = found
    for name, value in fingerprint.items():
        if state.fingerprint.get(name) != value:
            raise ValueError(
                f"{name} must be what the run in {folder} began with ({state.fingerprint.get(name)}), got {value}; "
                "keep it, or choose another name or folder"
            )
    if state.iteration >= config.iterations:
        raise ValueError(
            f"iterations must exceed the {state.iteration} that the run in {folder} has done, got {config.iterations}; "
            "raise it, or choose another name or folder"
        )
    return state.iteration


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


def seconds_since_start() -> float:
    """Seconds since this process was started."""
    return time.time() - psutil.Process().create_time()


def _plain(value: Any) -> Any:
    """The same with enums as text and tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value.value if hasattr(value, "value") else value
