"""The page: one run of the system, top to bottom.

    tasks ──► collect (rollouts, scores, judgements) ──► update (optimizer steps) ──► publish (proven weights) ─┐
      ▲                                                                                                         │
      └─────────────────────────── next iteration, with the new policy and critic ◄─────────────────────────────┘

Each step waits for the one before it, so every rollout of an iteration is sampled, and judged, by exactly the weights
that the update starts from; unless rollouts are paused between iterations, or run ahead (docs/rollouts.md). Evaluation
and checkpoints happen between iterations.
"""

from __future__ import annotations

from functools import partial

from rl.collect import rollout_metrics
from rl.shaping import shape
from rl.staleness import learnable
from rl.system import System
from rl.tracking.clock import Clock, throughput, timed


def run(system: System) -> int:
    """Run to the last iteration, or to the end of the present one if a stop is requested.

    Continues from the newest checkpoint, if there is one. Returns the number of iterations done.
    """
    config = system.config
    done = system.restore()
    system.critic.follow(system.trainer.version)
    first = system.publish_first()
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
        ledger = system.budgets.observe(harvest.groups, iteration=done)
        groups = shape(harvest.groups, system.shaping, iteration=done)
        joined = system.critic.joined(groups, harvest.lessons)
        learnt, metrics = learnable(joined, version=system.trainer.version, oldest=system.trainer.oldest)

        with clock.span("time/update_s"):
            metrics |= system.collector.beside(partial(system.trainer.update, learnt))

        with clock.span("time/refresh_s"):
            metrics |= system.critic.learn(harvest.lessons)

        with clock.span("time/publish_s"):
            system.critic.follow(system.trainer.version)
            metrics |= system.publisher.publish()[1]

        metrics |= rollout_metrics(groups) | ledger | system.critic.metrics(harvest.lessons) | harvest.metrics
        metrics |= clock.metrics()
        metrics |= throughput(metrics)
        if done % config.evaluation.every == 0 or done == config.iterations:
            metrics |= timed(system.evaluation.run, "time/evaluate_s")
        metrics |= {"time/since_start_s": system.seconds_since_start(), "fault/restarts": float(system.restarts)}

        # The log comes first, so that no checkpoint is ahead of it. Both count for the next iteration's time.
        clock, stopping = Clock(), system.stop_requested()
        system.tracker.log(done, metrics, [*groups, *harvest.lessons])
        if done % config.checkpoint.every == 0 or done == config.iterations or stopping:
            with clock.span("time/checkpoint_s"):
                system.save(done)
    return done
