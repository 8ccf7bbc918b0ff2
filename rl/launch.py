"""Wiring: from a configuration to a running system. The only place where parts are put together.

Everything that can be wrong with a configuration is found before the first process starts and before the first file
is written; it raises ``ValueError``.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
import yaml

from rewards.base import build_reward, check_fields
from rewards.pool import RewardPool
from rl.chat import Chat
from rl.checkpoint import Checkpoints
from rl.collect import Collector
from rl.config import Config, Resume, validate
from rl.errors import RunInterrupted
from rl.evaluate import Evaluator
from rl.loop import System, run
from rl.losses import LossInputs
from rl.plugins import build
from rl.protocols import GroupReward, RewardFunction, TaskSource, TaskStream
from rl.schedules import learning_rate
from rl.tasks import check_prompts, first_tasks
from rl.tracking.console import ConsoleTracker
from rl.tracking.files import FileTracker, read_metrics, summarise
from rl.tracking.tracker import Trackers
from rl.tracking.weights_and_biases import WandbTracker
from rl.types import EndReason, Rollout, Task
from rl.weights.publish import Publisher

PROMPTS_CHECKED = 10_000


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a configuration names, built and checked; nothing runs yet."""

    chat: Chat
    train: TaskSource
    stream: TaskStream
    held_out: list[Task]
    reward: RewardFunction
    shaping: dict[str, GroupReward]
    envs: dict[str, Callable[[], Any]]
    advantage: Callable[[torch.Tensor], torch.Tensor]
    loss: Callable[..., Any]


def prepare(config: Config) -> Parts:
    """Build and check everything that needs no process. Raises ``ValueError``."""
    validate(config)
    _check_model(config)
    train_source = build(config.tasks.train, name="tasks.train")
    stream = build(config.tasks.stream, name="tasks.stream", partial=True)
    parts = Parts(
        chat=Chat(config.model.path),
        train=train_source,
        stream=stream(train_source, seed=config.seed),
        held_out=first_tasks(build(config.tasks.held_out, name="tasks.held_out"), config.evaluation.tasks),
        reward=build_reward(config.reward),
        shaping={name: build(spec, name=f"shaping.{name}") for name, spec in config.shaping.items()},
        envs={name: build(spec, name=f"env.{name}", partial=True) for name, spec in config.env.items()},
        advantage=build(config.algorithm.advantage, name="algorithm.advantage", partial=True),
        loss=build(config.algorithm.loss, name="algorithm.loss", partial=True),
    )
    tasks = first_tasks(parts.train, PROMPTS_CHECKED if parts.train.size is not None else 64)
    check_prompts([*tasks, *parts.held_out], parts.chat, context=config.model.context)
    check_fields(parts.reward, [*tasks, *parts.held_out])
    for task in [tasks[0], parts.held_out[0]]:
        if task.env not in parts.envs:
            raise ValueError(
                f"env must define the environment {task.env!r} that task {task.id} asks for, got {sorted(parts.envs)}"
            )
    _try_objective(parts)
    return parts


def _check_model(config: Config) -> None:
    from transformers import AutoConfig

    try:
        model = AutoConfig.from_pretrained(config.model.path)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"model.path must be a model folder or name, got {config.model.path}: {reason}") from error
    longest = getattr(model, "max_position_embeddings", None)
    if longest is not None and config.model.context > longest:
        raise ValueError(
            f"model.context must not exceed what the model was built for ({longest}), got {config.model.context}"
        )


def _try_objective(parts: Parts) -> None:
    """Run advantage and loss on two made-up rollouts, so that a bad setting fails here and not in a worker."""
    advantages_S = parts.advantage(torch.tensor([0.0, 1.0]))
    logprobs_T = torch.tensor([-1.0, -2.0], requires_grad=True)
    outputs = parts.loss(
        LossInputs(
            logprobs_T=logprobs_T,
            old_logprobs_T=logprobs_T.detach(),
            seq_ids_T=torch.tensor([0, 1]),
            advantages_S=advantages_S.float(),
            weights_S=torch.tensor([0.5, 0.5]),
        )
    )
    if not math.isfinite(float(outputs.loss.detach())):
        raise ValueError(f"algorithm.loss must be finite on two rollouts with rewards 0 and 1, got {outputs.loss}")


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

    with _reward_pool(config, parts) as scorer, stop_on_interrupt() as stop_requested, ExitStack() as cleanup:
        folder.mkdir(parents=True, exist_ok=True)
        plain = _plain(asdict(config))
        (folder / "config.yaml").write_text(yaml.safe_dump(plain, sort_keys=False))
        console = ConsoleTracker(name=config.name, folder=folder, iterations=config.iterations, done=done or 0)
        trackers: list[Any] = [console, FileTracker(folder, resume_after=done)]
        cleanup.callback(console.stop)
        with _workers(config, parts, console) as (trainer, pool, runner):
            if config.tracking.wandb != "disabled":
                trackers.append(WandbTracker(config.tracking, name=config.name, folder=folder, config=plain))
            tracker = Trackers(trackers)
            collector = _collector(config, parts, pool, scorer, runner)
            prompts = [parts.chat.prompt_ids(t.messages) for t in parts.held_out[: config.weights.probe_prompts]]
            console.step("measuring the starting policy" if done is None else "resuming")
            finished = run(
                System(
                    config=config,
                    fingerprint=fingerprint,
                    stream=parts.stream,
                    collector=collector,
                    shaping=parts.shaping,
                    trainer=trainer,
                    publisher=Publisher(
                        source=trainer,
                        sink=pool,
                        probe_prompts=prompts,
                        probe_tokens=config.weights.probe_tokens,
                        max_mean_difference=config.weights.max_mean_difference,
                        max_difference=config.weights.max_difference,
                    ),
                    evaluator=Evaluator(
                        collector=collector,
                        tasks=parts.held_out,
                        samples=config.evaluation.samples,
                        temperature=config.evaluation.temperature,
                        pass_value=config.evaluation.pass_value,
                    ),
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


@contextmanager
def _reward_pool(config: Config, parts: Parts) -> Iterator[RewardPool]:
    """The processes that rewards run in, tried out with an empty reply to each kind of task; they end with the context.

    Raises ``ValueError`` if the reward fails at that.
    """
    settings = config.reward_pool
    workers = settings.workers or min(8, len(os.sched_getaffinity(0)))
    pool = RewardPool(config.reward, workers=workers, deadline_s=settings.deadline_s, memory_mib=settings.memory_mib)
    try:
        pool.ready()
        for task in {task.kind: task for task in [*parts.held_out, *first_tasks(parts.train, 64)]}.values():
            silent = Rollout(task_id=task.id, segments=(), messages=(), end_reason=EndReason.STOP)
            score = asyncio.run(pool.score(task, silent))
            if score.fault is not None:
                raise ValueError(f"reward: it fails on an empty reply to task {task.id} ({score.fault}): {score.error}")
        yield pool
    finally:
        pool.close()


@contextmanager
def _workers(config: Config, parts: Parts, console: ConsoleTracker) -> Iterator[tuple[Any, Any, asyncio.Runner]]:
    """Trainer ranks and engines, started side by side; all end with the context."""
    from rl.workers import placement
    from rl.workers.rollout_pool import RolloutPool
    from rl.workers.trainer_group import TrainerGroup
    from rl.workers.trainer_worker import TrainerOptions

    trainer, rollout, cluster = config.trainer, config.rollout, config.cluster
    threads = placement.threads_of(cluster)
    console.step("starting Ray")
    placement.connect(cluster)
    try:
        console.step("starting engines and trainer ranks")
        engines, engines_up = placement.start_rollout_workers(_engine_options(config, parts), rollout, cluster)
        ranks, ranks_up = placement.start_trainer_workers(
            TrainerOptions(
                model=config.model.path,
                ranks=trainer.ranks,
                zero_stage=trainer.zero_stage,
                learning_rate=trainer.learning_rate,
                adam_betas=(trainer.adam_betas[0], trainer.adam_betas[1]),
                weight_decay=trainer.weight_decay,
                max_grad_norm=trainer.max_grad_norm,
                gradient_checkpointing=trainer.gradient_checkpointing,
                loss=parts.loss,
                temperature=rollout.temperature,
                bucket_bytes=config.weights.bucket_mib * 2**20,
                seed=config.seed,
                threads=None if threads is None else max(1, threads // trainer.ranks),
            ),
            cluster,
        )
        placement.wait_started(engines_up | ranks_up, cluster)
        with asyncio.Runner() as runner:
            yield (
                TrainerGroup(
                    ranks,
                    advantage=parts.advantage,
                    rate=partial(
                        learning_rate,
                        peak=trainer.learning_rate,
                        kind=trainer.schedule,
                        warmup_steps=trainer.warmup_updates,
                        total_steps=config.iterations * config.algorithm.updates_per_iteration,
                        floor=trainer.floor,
                    ),
                    updates_per_iteration=config.algorithm.updates_per_iteration,
                    micro_batch_tokens=trainer.micro_batch_tokens,
                    deadline_s=trainer.deadline_s,
                ),
                RolloutPool(engines, deadline_s=rollout.deadline_s, run=runner.run),
                runner,
            )
    finally:
        placement.disconnect()


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
def sampling(config: Config, parts: Parts) -> Iterator[Collector]:
    """Engines with the model as it lies on disk and the reward's processes, no trainer; all end with the context."""
    from rl.workers import placement
    from rl.workers.rollout_pool import RolloutPool

    with _reward_pool(config, parts) as scorer:
        placement.connect(config.cluster)
        try:
            options = _engine_options(config, parts)
            engines, started = placement.start_rollout_workers(options, config.rollout, config.cluster)
            placement.wait_started(started, config.cluster)
            with asyncio.Runner() as runner:
                engine = RolloutPool(engines, deadline_s=config.rollout.deadline_s, run=runner.run)
                yield _collector(config, parts, engine, scorer, runner)
        finally:
            placement.disconnect()


def _collector(config: Config, parts: Parts, engine: Any, scorer: RewardPool, runner: asyncio.Runner) -> Collector:
    return Collector(
        engine=engine,
        chat=parts.chat,
        envs=parts.envs,
        score=scorer.score,
        run=runner.run,
        context=config.model.context,
        max_tokens=config.rollout.max_tokens,
        seed=config.seed,
    )


def _fingerprint(config: Config) -> dict[str, str]:
    """Settings under which a checkpoint can be continued; see ``_check_folder``."""
    return {
        "seed": str(config.seed),
        "model.path": config.model.path,
        "trainer.ranks": str(config.trainer.ranks),
        "trainer.zero_stage": str(config.trainer.zero_stage),
        "tasks.train": str(_plain(config.tasks.train)),
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
