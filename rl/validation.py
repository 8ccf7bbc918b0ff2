"""Which values and combinations of a configuration make sense, as far as no file and no process must be asked."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from rl.config import Config, CriticMode, KindConfig, Placement
from rl.schedules import KINDS


def require(condition: bool, field_name: str, rule: str, value: object) -> None:
    """Raise ``ValueError`` naming field, rule and value unless ``condition`` holds."""
    if not condition:
        raise ValueError(f"{field_name} {rule}, got {value}")


_AT_LEAST_ONE = (
    "tasks.per_iteration", "rollout.max_tokens", "rollout.workers", "rollout.concurrency", "rollout.tensor_parallel",
    "algorithm.updates_per_iteration", "trainer.ranks", "weights.bucket_mib", "weights.probe_prompts",
    "weights.probe_tokens", "evaluation.every", "evaluation.tasks", "evaluation.samples", "iterations",
    "checkpoint.every", "checkpoint.keep", "tracking.table_every", "reward_pool.memory_mib", "critic.max_tokens",
    "critic.workers", "env_pool.concurrency",
)  # fmt: skip
_POSITIVE = (
    "rollout.temperature", "rollout.deadline_s", "rollout.env_deadline_s",
    "trainer.learning_rate", "trainer.deadline_s", "evaluation.temperature", "reward_pool.deadline_s",
    "cluster.object_store_gib", "cluster.start_deadline_s", "weights.deadline_s",
)  # fmt: skip


def _get(config: Config, path: str) -> Any:
    value: Any = config
    for part in path.split("."):
        value = getattr(value, part)
    return value


def validate(config: Config) -> None:
    """Check every value and every combination that needs no file and no process. Raises ``ValueError``."""
    for path in _AT_LEAST_ONE:
        require(_get(config, path) >= 1, path, "must be at least 1", _get(config, path))
    for path in _POSITIVE:
        require(_get(config, path) > 0, path, "must be positive", _get(config, path))
    require(config.restarts >= 0, "restarts", "must not be negative", config.restarts)
    rollout, trainer = config.rollout, config.trainer
    require(
        rollout.group_size >= 2,
        "rollout.group_size",
        "must be at least 2, because a rollout is compared with the others of its group",
        rollout.group_size,
    )
    require(
        rollout.max_tokens < config.model.context,
        "rollout.max_tokens",
        f"must be below model.context ({config.model.context}) to leave room for the prompt",
        rollout.max_tokens,
    )
    require(trainer.zero_stage in (1, 2, 3), "trainer.zero_stage", "must be 1, 2 or 3", trainer.zero_stage)
    require(
        trainer.expert_parallel >= 1 and trainer.ranks % trainer.expert_parallel == 0,
        "trainer.expert_parallel",
        f"must be a divisor of trainer.ranks ({trainer.ranks})",
        trainer.expert_parallel,
    )
    require(trainer.schedule in KINDS, "trainer.schedule", f"must be one of {', '.join(KINDS)}", trainer.schedule)
    require(trainer.max_grad_norm >= 0, "trainer.max_grad_norm", "must not be negative", trainer.max_grad_norm)
    require(trainer.warmup_updates >= 0, "trainer.warmup_updates", "must not be negative", trainer.warmup_updates)
    require(0 <= trainer.floor <= 1, "trainer.floor", "must be between 0 and 1", trainer.floor)
    require(
        trainer.micro_batch_tokens >= config.model.context,
        "trainer.micro_batch_tokens",
        f"must be at least model.context ({config.model.context}), because a sequence is never cut",
        trainer.micro_batch_tokens,
    )
    require(
        config.algorithm.updates_per_iteration <= config.tasks.per_iteration,
        "algorithm.updates_per_iteration",
        f"must not exceed tasks.per_iteration ({config.tasks.per_iteration}), because a group is never split",
        config.algorithm.updates_per_iteration,
    )
    _validate_rollout(config)
    threads = config.cluster.threads
    require(threads is None or threads >= 1, "cluster.threads", "must be null or at least 1", threads)
    workers = config.reward_pool.workers
    require(workers is None or workers >= 1, "reward_pool.workers", "must be null or at least 1", workers)
    kind_settings(config)
    _validate_critic(config)
    for name, part in (
        ("reward", config.reward),
        ("tasks.stream", config.tasks.stream),
        ("tasks.train", config.tasks.train),
        ("tasks.held_out", config.tasks.held_out),
        ("algorithm.loss", config.algorithm.loss),
        ("algorithm.advantage", config.algorithm.advantage),
    ):
        require("_target_" in part, name, "must name a function or class by _target_", dict(part) or "nothing")


def _validate_rollout(config: Config) -> None:
    rollout = config.rollout
    colocated = config.cluster.placement is Placement.colocated
    cache = rollout.kv_cache_gib
    require(cache is None or cache > 0, "rollout.kv_cache_gib", "must be null or positive", cache)
    require(
        cache is not None or config.cluster.placement is Placement.separate,
        "rollout.kv_cache_gib",
        f"must be set with cluster.placement={config.cluster.placement}, because engines cannot tell what is theirs",
        cache,
    )
    require(colocated or not rollout.sleep, "rollout.sleep", "needs cluster.placement=colocated", rollout.sleep)
    require(
        not (rollout.sleep and rollout.asynchronous),
        "rollout.sleep",
        "must be false with rollout.asynchronous, because rollouts go on while the trainer works",
        rollout.sleep,
    )
    require(
        not colocated or config.trainer.ranks % rollout.tensor_parallel == 0,
        "rollout.tensor_parallel",
        f"must divide trainer.ranks ({config.trainer.ranks}) with cluster.placement=colocated",
        rollout.tensor_parallel,
    )
    for name in ("turn_tokens", "iteration_tokens"):
        value = getattr(rollout, name)
        require(value is None or value >= 1, f"rollout.{name}", "must be null or at least 1", value)
    for name in ("iteration_s", "last_temperature"):
        value = getattr(rollout, name)
        require(value is None or value > 0, f"rollout.{name}", "must be null or positive", value)
    for name, least in (("keep_outputs", 0), ("repetitions", 2)):
        value = getattr(rollout, name)
        require(value is None or value >= least, f"rollout.{name}", f"must be null or at least {least}", value)
    require(
        rollout.keep_outputs is None or rollout.turn_tokens is not None,
        "rollout.turn_tokens",
        "must be set with rollout.keep_outputs, because it says when the context is too full for a turn",
        rollout.turn_tokens,
    )
    pool = config.env_pool
    require(pool.services >= 0, "env_pool.services", "must not be negative", pool.services)
    require(pool.cpus >= 0, "env_pool.cpus", "must not be negative", pool.cpus)
    for name, limit in pool.limits.items():
        require(name in config.env, f"env_pool.limits.{name}", f"must name one of {', '.join(config.env)}", limit)
        require(limit >= 1, f"env_pool.limits.{name}", "must be at least 1", limit)
    require(rollout.spare >= 0, "rollout.spare", "must not be negative", rollout.spare)
    require(config.budget.penalty >= 0, "budget.penalty", "must not be negative", config.budget.penalty)
    require(rollout.max_staleness >= 0, "rollout.max_staleness", "must not be negative", rollout.max_staleness)
    cap = config.algorithm.importance_cap
    require(cap is None or cap >= 1, "algorithm.importance_cap", "must be null or at least 1", cap)
    if not rollout.asynchronous:
        return
    require(
        rollout.max_staleness >= 1,
        "rollout.max_staleness",
        "must be at least 1 with rollout.asynchronous, because weights change while rollouts are sampled",
        rollout.max_staleness,
    )
    for name in ("iteration_tokens", "iteration_s"):
        value = getattr(rollout, name)
        require(value is None, f"rollout.{name}", "must be null with rollout.asynchronous, which pauses nothing", value)


def kind_settings(config: Config) -> dict[str, KindConfig]:
    """What is set for single kinds of task. Raises ``ValueError`` for what is no setting or makes no sense."""
    settings = {}
    known = [field.name for field in fields(KindConfig)]
    for kind, spec in config.kinds.items():
        unknown = sorted(set(spec) - set(known)) if isinstance(spec, dict) else [spec]
        require(not unknown, f"kinds.{kind}", f"must only have {', '.join(known)}", unknown)
        own = settings[kind] = KindConfig(**spec)
        require(
            own.group_size is None or own.group_size >= 2,
            f"kinds.{kind}.group_size",
            "must be null or at least 2",
            own.group_size,
        )
        require(
            own.max_tokens is None or 1 <= own.max_tokens < config.model.context,
            f"kinds.{kind}.max_tokens",
            f"must be null, or from 1 to below model.context ({config.model.context})",
            own.max_tokens,
        )
        require(own.weight >= 0, f"kinds.{kind}.weight", "must not be negative", own.weight)
        for name in ("temperature", "last_temperature"):
            value = getattr(own, name)
            require(value is None or value > 0, f"kinds.{kind}.{name}", "must be null or positive", value)
    return settings


def _validate_critic(config: Config) -> None:
    critic = config.critic
    if critic.mode is CriticMode.none:
        require(
            not critic.kinds, "critic.kinds", "must be empty without a critic (critic.mode=none)", list(critic.kinds)
        )
        return
    require(critic.temperature >= 0, "critic.temperature", "must not be negative", critic.temperature)
    require(
        critic.max_tokens < config.model.context,
        "critic.max_tokens",
        f"must be below model.context ({config.model.context}) to leave room for what is judged",
        critic.max_tokens,
    )
    require("judge" not in critic.kinds, "critic.kinds", "must not hold judge, the critic's own", critic.kinds)
