"""The page: one run of the system, top to bottom.

    tasks ──► collect (rollouts, scores) ──► update (optimizer steps) ──► publish (proven weights) ─┐
      ▲                                                                                             │
      └───────────────────────────── next iteration, with the new policy ◄──────────────────────────┘

Each step waits for the one before it, so every rollout of an iteration is sampled by exactly the weights that the
update starts from. Evaluation and checkpoints happen between iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rl.checkpoint import Checkpoints, RunState
from rl.collect import Collector, rollout_metrics
from rl.config import Config
from rl.evaluate import Evaluator
from rl.protocols import GroupReward, TaskStream, Tracker, Trainer
from rl.shaping import shape
from rl.tracking.clock import Clock, throughput, timed
from rl.weights.publish import Publisher


@dataclass(kw_only=True)
class System:
    """The parts of a run, wired together by ``rl.launch``."""

    config: Config
    fingerprint: dict[str, str]
    stream: TaskStream
    collector: Collector
    shaping: Mapping[str, GroupReward]
    trainer: Trainer
    publisher: Publisher
    evaluator: Evaluator
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
    _, first = system.publisher.publish()
    if done == 0:
        system.tracker.log(0, first | timed(system.evaluator.run, "time/evaluate_s"))

    clock, stopping = Clock(), False
    while done < config.iterations and not stopping:
        done += 1
        reward_before = system.collector.reward_s

        with clock.span("time/rollout_s"):
            groups = system.collector.collect(
                system.stream.take(config.tasks.per_iteration),
                group_size=config.rollout.group_size,
                temperature=config.rollout.temperature,
                stream=f"train/{done}",
            )
        clock.split("time/rollout_s", "time/reward_s", system.collector.reward_s - reward_before)
        system.stream.observe(groups)
        groups = shape(groups, system.shaping, iteration=done)

        with clock.span("time/update_s"):
            metrics = system.trainer.update(groups)

        with clock.span("time/publish_s"):
            _, proof = system.publisher.publish()

        metrics |= proof | rollout_metrics(groups)
        metrics |= clock.metrics()
        metrics |= throughput(metrics)
        if done % config.evaluation.every == 0 or done == config.iterations:
            metrics |= timed(system.evaluator.run, "time/evaluate_s")
        metrics["time/since_start_s"] = system.seconds_since_start()

        # The log comes first, so that no checkpoint is ahead of it. Both count for the next iteration's time.
        clock, stopping = Clock(), system.stop_requested()
        system.tracker.log(done, metrics, groups)
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
        fingerprint=system.fingerprint,
    )
    system.checkpoints.save(state, system.trainer.save)


def restore(system: System) -> int:
    """Take up the newest checkpoint; returns the iterations it had done, 0 without one."""
    found = system.checkpoints.newest()
    if found is None:
        return 0
    state, folder = found
    system.trainer.load(folder, version=state.version)
    system.stream.restore(state.stream)
    return state.iteration
