"""The page: one run of the system, top to bottom.

    tasks ──► collect (rollouts, scores, judgements) ──► update (optimizer steps) ──► publish (proven weights) ─┐
      ▲                                                                                                         │
      └─────────────────────────── next iteration, with the new policy and critic ◄─────────────────────────────┘

Each step waits for the one before it, so every rollout of an iteration is sampled, and judged, by exactly the weights
that the update starts from; unless rollouts are paused between iterations, or run ahead (docs/rollouts.md). Evaluation
and checkpoints happen between iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from rl.checkpoint import Checkpoints, RunState
from rl.collect import rollout_metrics
from rl.config import Config
from rl.critic_learner import CriticLearner
from rl.evaluate import Evaluation
from rl.joint import JointCollector
from rl.protocols import GroupReward, TaskStream, Tracker, Trainer
from rl.shaping import shape
from rl.staleness import learnable, staleness_metrics
from rl.tracking.clock import Clock, throughput, timed
from rl.weights.publish import Publisher


@dataclass(kw_only=True)
class System:
    """The parts of a run, wired together by ``rl.launch``."""

    config: Config
    fingerprint: dict[str, str]
    stream: TaskStream
    collector: JointCollector
    critic: CriticLearner
    shaping: Mapping[str, GroupReward]
    trainer: Trainer
    publisher: Publisher
    evaluation: Evaluation
    checkpoints: Checkpoints
    tracker: Tracker
    stop_requested: Callable[[], bool]
    seconds_since_start: Callable[[], float]


def run(system: System) -> int:
    """Run to the last iteration, or to the end of the present one if a stop is requested.

    Continues from the newest checkpoint, if there is one. Returns the number of iterations done.
    """
    config = system.config
    done = restore(system)
    system.critic.follow(system.trainer.version)
    _, first = system.publisher.publish()
    if done == 0:
        system.tracker.log(0, first | timed(system.evaluation.run, "time/evaluate_s"))

    clock, stopping = Clock(), False
    while done < config.iterations and not stopping:
        done += 1
        with clock.span("time/rollout_s"):
            harvest = system.collector.collect(system.stream.take(system.collector.room), iteration=done)
        clock.split("time/rollout_s", "time/reward_s", harvest.reward_s)
        clock.split("time/rollout_s", "time/judge_s", harvest.judge_s)
        system.stream.observe(harvest.groups)
        groups = shape(harvest.groups, system.shaping, iteration=done)
        learnt = system.critic.joined(groups, harvest.lessons)
        oldest = system.trainer.oldest
        metrics = staleness_metrics(learnt, version=system.trainer.version, oldest=oldest)

        with clock.span("time/update_s"):
            metrics |= system.collector.beside(partial(system.trainer.update, learnable(learnt, oldest=oldest)))

        with clock.span("time/refresh_s"):
            metrics |= system.critic.learn(harvest.lessons)

        with clock.span("time/publish_s"):
            system.critic.follow(system.trainer.version)
            metrics |= system.publisher.publish()[1]

        metrics |= rollout_metrics(groups) | system.critic.metrics(harvest.lessons)
        metrics["rollout/pending"] = float(harvest.pending)
        metrics |= clock.metrics()
        metrics |= throughput(metrics)
        if done % config.evaluation.every == 0 or done == config.iterations:
            metrics |= timed(system.evaluation.run, "time/evaluate_s")
        metrics["time/since_start_s"] = system.seconds_since_start()

        # The log comes first, so that no checkpoint is ahead of it. Both count for the next iteration's time.
        clock, stopping = Clock(), system.stop_requested()
        system.tracker.log(done, metrics, [*groups, *harvest.lessons])
        if done % config.checkpoint.every == 0 or done == config.iterations or stopping:
            with clock.span("time/checkpoint_s"):
                save(system, done)
    return done


def save(system: System, done: int) -> None:
    """Checkpoint the run as it stands after ``done`` iterations."""
    state = RunState(
        iteration=done,
        stream=system.stream.state(),
        version=system.trainer.version,
        critic=system.critic.state(),
        fingerprint=system.fingerprint,
    )
    system.checkpoints.save(state, system.trainer.save, system.critic.save, system.collector.save)


def restore(system: System) -> int:
    """Take up the newest checkpoint; returns the iterations it had done, 0 without one."""
    found = system.checkpoints.newest()
    if found is None:
        return 0
    state, folder = found
    system.trainer.load(folder, version=state.version)
    system.stream.restore(state.stream)
    system.critic.load(folder, state.critic)
    system.collector.load(folder)
    return state.iteration
