"""Wiring: from a configuration to a running system. The only place where parts are put together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from critic.critic import Critic
from critic.judge import Judge
from envs.base import Env
from rewards.pool import RewardPool
from rl.budget import BudgetPolicy, Budgets, Fixed
from rl.checkpoint import Checkpoints
from rl.collect import Collector
from rl.config import Config, CriticMode, KindConfig
from rl.critic_learner import CriticLearner
from rl.errors import RunInterrupted, TransferError, WorkerFailedError
from rl.evaluate import Evaluation, Evaluator
from rl.gate import Gate
from rl.joint import JointCollector
from rl.loop import run
from rl.prepare import Parts, prepare
from rl.processes import Workers, engine_options, reward_pool, set_pool, start_workers, stop_on_interrupt
from rl.protocols import Engine, Scorer
from rl.recover import Restarts
from rl.rollout import RolloutLimits
from rl.run_folder import check_folder, fingerprint_of, write_config
from rl.schedules import temperature
from rl.system import System
from rl.tracking.clock import seconds_since_start
from rl.tracking.console import ConsoleTracker, warn
from rl.tracking.files import FileTracker, read_metrics, summarise
from rl.tracking.tracker import Trackers
from rl.tracking.weights_and_biases import WandbTracker
from rl.types import Rollout, Score, Task
from rl.validation import kind_settings
from rl.weights.publish import Publisher


def train(config: Config) -> Path:
    """Run the main job; returns the run folder. If workers fail it goes on from the newest checkpoint.

    Raises ``ValueError`` for what the user can mend, ``WorkerFailedError`` or ``TransferError`` if ``restarts`` did not
    help, ``WeightMismatchError`` for what else went wrong on the way, ``RunInterrupted`` after a requested stop.
    """
    folder, restarts = Path(config.folder), Restarts(limit=config.restarts)
    finished = None
    while finished is None:
        # Everything with a state is made anew each time, as by a new command.
        parts = prepare(config)
        checkpoints = Checkpoints(folder / "checkpoints", keep=config.checkpoint.keep)
        done = check_folder(config, folder, checkpoints, fingerprint_of(config), restarted=restarts.count > 0)
        for damage in checkpoints.damage:
            warn(f"a damaged checkpoint is passed over: {damage}")
        with stop_on_interrupt() as stop_requested:
            try:
                finished = _attempt(config, parts, checkpoints, done, restarts, stop_requested)
            except (WorkerFailedError, TransferError) as error:
                if stop_requested() or not restarts.allow(saved=checkpoints.saved):
                    raise
                newest = checkpoints.saved or done or 0
                onward = f"goes on after iteration {newest}" if newest else "begins anew"
                warn(f"{error}\nrestart {restarts.count}: the run {onward}")
    if finished < config.iterations:
        raise RunInterrupted(
            f"stopped after iteration {finished} of {config.iterations}; the same command goes on from there"
        )
    return folder


def _attempt(
    config: Config,
    parts: Parts,
    checkpoints: Checkpoints,
    done: int | None,
    restarts: Restarts,
    stop_requested: Callable[[], bool],
) -> int:
    """Run until the end, a requested stop or a failure; returns the iterations done. All processes end with it."""
    folder = Path(config.folder)
    with ExitStack() as cleanup:
        scorer = cleanup.enter_context(reward_pool(config, parts))
        scorers = {name: cleanup.enter_context(set_pool(config, extra)) for name, extra in parts.sets.items()}
        settings = write_config(config, folder)
        console = ConsoleTracker(name=config.name, folder=folder, iterations=config.iterations, done=done or 0)
        trackers: list[Any] = [console, FileTracker(folder, resume_after=done)]
        cleanup.callback(console.stop)
        with start_workers(config, parts, console.step) as workers:
            restarts.began = True
            if config.tracking.wandb != "disabled":
                wandb = WandbTracker(config.tracking, name=config.name, folder=folder, config=settings)
                cleanup.callback(wandb.stop)
                trackers.append(wandb)
            tracker = Trackers(trackers)
            console.step("measuring the starting policy" if done is None else f"resuming after iteration {done}")
            publisher = _publisher(config, parts, workers.trainer, workers.channel)
            workers.pool.admit = publisher.admit
            learner = _critic(config, parts, workers)
            budgets = _budgets(config, parts.budget, cut=config.budget.cut)
            finished = run(
                System(
                    config=config,
                    fingerprint=fingerprint_of(config),
                    stream=parts.stream,
                    collector=_joint_collector(config, parts, workers, scorer, learner.critic, budgets),
                    budgets=budgets,
                    critic=learner,
                    shaping=parts.shaping,
                    trainer=workers.trainer,
                    publisher=publisher,
                    evaluation=_evaluation(config, parts, workers, {"": scorer, **scorers}, learner),
                    checkpoints=checkpoints,
                    tracker=tracker,
                    stop_requested=stop_requested,
                    seconds_since_start=seconds_since_start,
                    restarts=restarts.count,
                )
            )
        tracker.close(summarise(read_metrics(folder), total_s=seconds_since_start()))
    return finished


def _publisher(config: Config, parts: Parts, trainer: Any, channel: Any) -> Publisher:
    return Publisher(
        source=trainer,
        sink=channel,
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
    trainer, publisher = workers.critic_trainer, None
    if trainer is not None:
        publisher = _publisher(config, parts, trainer, workers.critic_channel)
        workers.critic_pool.admit = publisher.admit
    return CriticLearner(
        critic=critic,
        shared=config.critic.mode is CriticMode.self,
        run=workers.run,
        folder=Path(config.folder) / "critic-before-refresh",
        trainer=trainer,
        publisher=publisher,
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
    config: Config, parts: Parts, workers: Workers, scorer: RewardPool, critic: Critic | None, budgets: Budgets
) -> JointCollector:
    async def score(task: Task, rollout: Rollout) -> Score:
        if critic is not None and critic.ranks(task):
            return Score(value=0.0)  # the critic's to say, once it sees the whole group
        return await scorer.score(task, rollout)

    rollout = config.rollout
    gate = Gate(engine=workers.pool, allowance=rollout.iteration_tokens)
    others = {} if workers.critic_pool is None else {"critic": workers.critic_pool}
    policy = _collector(
        config, parts, gate, score, workers.run, critic, envs=_envs(parts, workers), budget=budgets.of, others=others
    )
    judging = None
    if critic is not None:
        most = config.critic.max_tokens
        judging = _collector(
            config, parts, critic.judge.engine, critic.score, workers.run, critic, budget=lambda _: (most, most)
        )
    return JointCollector(
        policy=policy,
        critic=critic,
        judging=judging,
        kinds=kind_settings(config),
        group_size=rollout.group_size,
        spare=rollout.spare,
        temperature=partial(_temperature, config),
        gate=gate,
        per_iteration=config.tasks.per_iteration,
        iteration_s=rollout.iteration_s,
        ahead=rollout.max_staleness if rollout.asynchronous else 0,
        faults=partial(_health, workers),
    )


def _health(workers: Workers) -> dict[str, float]:
    """What was lost since the last call, of engines and env services."""
    services = {} if workers.env_pool is None else workers.env_pool.metrics()
    engines: dict[str, float] = workers.pool.metrics()
    if workers.critic_pool is not None:
        engines["fault/engines"] += workers.critic_pool.metrics()["fault/engines"]
    return engines | services


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
    envs = _envs(parts, workers)
    tasks = {"": parts.held_out} | {name: extra.tasks for name, extra in parts.sets.items()}
    return Evaluation(
        evaluators=[
            Evaluator(
                name=f"eval/{name}".rstrip("/"),
                collector=_collector(
                    config,
                    parts,
                    workers.pool,
                    scorers[name].score,
                    workers.run,
                    learner.critic,
                    envs=envs,
                    constrain=settings.constrain_calls,
                ),
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
def sampling(config: Config, parts: Parts) -> Iterator[tuple[Collector, Critic | None]]:
    """Engines with the model as it lies on disk and the reward's processes, no trainer; all end with the context.

    The critic, if there is one, judges with that model too.
    """
    from rl.workers import placement
    from rl.workers.rollout_pool import RolloutPool

    with reward_pool(config, parts) as scorer:
        placement.connect(config.cluster)
        try:
            options = engine_options(config, parts)
            engines, started = placement.start_rollout_workers(options, config.cluster, count=config.rollout.workers)
            placement.wait_started(started, config.cluster)
            with asyncio.Runner() as runner:
                engine = RolloutPool(engines, deadline_s=config.rollout.deadline_s)
                critic = None if parts.critic is None else _make_critic(config, parts, engine)
                yield _collector(config, parts, engine, scorer.score, runner.run, critic), critic
        finally:
            placement.disconnect()


def _envs(parts: Parts, workers: Workers) -> Mapping[str, Callable[[], Env]]:
    """Environments where they run: in the driver, or on services."""
    if workers.env_pool is None:
        return parts.envs
    return {name: partial(workers.env_pool.make, name) for name in parts.envs}


def _budgets(config: Config, policy: BudgetPolicy, *, cut: bool) -> Budgets:
    own = {kind: settings.max_tokens for kind, settings in kind_settings(config).items()}
    return Budgets(
        policy=policy,
        most=lambda kind: own.get(kind) or config.rollout.max_tokens,
        cut=cut,
        pass_value=config.evaluation.pass_value,
    )


def _collector(
    config: Config,
    parts: Parts,
    engine: Engine,
    score: Scorer,
    run: Callable[..., Any],
    critic: Critic | None,
    *,
    envs: Mapping[str, Callable[[], Env]] | None = None,
    constrain: bool = False,
    budget: Callable[[Task], tuple[int, int]] | None = None,
    others: Mapping[str, Engine] | None = None,
) -> Collector:
    """Environments run in the driver, and ``budget`` is what ``max_tokens`` says, unless others are given."""
    pool = config.env_pool
    return Collector(
        engine=engine,
        chat=parts.chat,
        envs=envs or parts.envs,
        score=score,
        run=run,
        limits=_limits(config),
        seed=config.seed,
        judge=None if critic is None else critic.judge,
        slots={name: asyncio.Semaphore(pool.limits.get(name, pool.concurrency)) for name in parts.envs},
        constrain=constrain,
        budget=budget or _budgets(config, Fixed(), cut=True).of,
        others=others or {},
    )


def _limits(config: Config) -> RolloutLimits:
    rollout = config.rollout
    return RolloutLimits(
        max_tokens=rollout.max_tokens,
        context=config.model.context,
        turn_tokens=rollout.turn_tokens,
        keep_outputs=rollout.keep_outputs,
        views=config.trainer.micro_batch_tokens // config.model.context,
        env_deadline_s=rollout.env_deadline_s,
    )
