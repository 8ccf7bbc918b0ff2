"""From a configuration to its parts, built and checked, before any process starts or any file is written.

Everything that can be wrong with a configuration is found here; it raises ``ValueError``.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from critic.guard import Guard
from critic.pairs import Schedule
from critic.prompts import Fit, Prompts
from critic.refresh import Refresh
from critic.rubrics import RubricSet, load_rubrics
from envs.base import Opening
from rewards.base import build_reward, check_fields
from rewards.combine import Combined
from rewards.length import OverBudget
from rl.budget import BudgetPolicy
from rl.chat import Chat
from rl.config import Config, CriticMode
from rl.errors import ToolMissingError
from rl.losses import LossInputs
from rl.plugins import build
from rl.protocols import GroupReward, RewardFunction, TaskSource, TaskStream
from rl.tasks import check_prompts, first_tasks
from rl.types import Task
from rl.validation import validate

PROMPTS_CHECKED = 10_000
_SET = ("tasks", "reward", "count")


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """Tasks to measure, and the reward that scores them there and nowhere else."""

    tasks: list[Task]
    reward: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class CriticParts:
    """What the critic is made of."""

    rubrics: RubricSet
    prompts: Prompts
    pairs: Schedule
    ranking: Callable[..., Any]
    refresh: Refresh
    guard: Guard


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a configuration names, built and checked; nothing runs yet."""

    chat: Chat
    train: TaskSource
    stream: TaskStream
    held_out: list[Task]
    reward: RewardFunction
    sets: dict[str, EvaluationSet]
    critic: CriticParts | None
    shaping: dict[str, GroupReward]
    budget: BudgetPolicy
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
        sets={name: _evaluation_set(config, name, spec) for name, spec in config.tasks.sets.items()},
        critic=_critic_parts(config),
        shaping=_shaping(config),
        budget=build(config.budget.policy, name="budget.policy"),
        envs={name: build(spec, name=f"env.{name}", partial=True) for name, spec in config.env.items()},
        advantage=build(config.algorithm.advantage, name="algorithm.advantage", partial=True),
        loss=build(config.algorithm.loss, name="algorithm.loss", partial=True),
    )
    tasks = first_tasks(parts.train, PROMPTS_CHECKED if parts.train.size is not None else 64)
    everything = [*tasks, *parts.held_out, *(task for extra in parts.sets.values() for task in extra.tasks)]
    check_prompts(everything, parts.chat, context=config.model.context)
    check_fields(parts.reward, [*verified(config, tasks), *parts.held_out])
    _check_kinds(config, parts, tasks)
    for task in {task.env: task for task in everything}.values():
        _try_environment(parts, task)
    _try_objective(parts)
    return parts


def verified(config: Config, tasks: Sequence[Task]) -> list[Task]:
    """Those that the reward scores in training; the others are the critic's."""
    return [task for task in tasks if task.kind not in config.critic.kinds]


def _shaping(config: Config) -> dict[str, GroupReward]:
    """What is added to scores: what the user names, and the price of going over a budget."""
    rules: dict[str, GroupReward] = {name: build(spec, name=f"shaping.{name}") for name, spec in config.shaping.items()}
    if config.budget.penalty:
        rules["over_budget"] = OverBudget(penalty=config.budget.penalty)
    return rules


def _evaluation_set(config: Config, name: str, spec: Any) -> EvaluationSet:
    where = f"tasks.sets.{name}"
    parts = [spec.get(part) for part in ("tasks", "reward")] if isinstance(spec, dict) else [None]
    if not all(isinstance(part, dict) and "_target_" in part for part in parts) or set(spec) - {*_SET}:
        raise ValueError(f"{where} must have tasks and reward, each with a _target_, and may have count, got {spec}")
    count = spec.get("count", config.evaluation.tasks)
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"{where}.count must be a whole number of at least 1, got {count}")
    tasks = first_tasks(build(spec["tasks"], name=f"{where}.tasks"), count)
    check_fields(build_reward(spec["reward"], name=f"{where}.reward"), tasks)
    return EvaluationSet(tasks=tasks, reward=spec["reward"])


def _critic_parts(config: Config) -> CriticParts | None:
    critic = config.critic
    if critic.mode is CriticMode.none:
        return None
    return CriticParts(
        rubrics=load_rubrics(critic.rubrics),
        prompts=build(critic.prompts, name="critic.prompts"),
        pairs=build(critic.pairs, name="critic.pairs"),
        ranking=build(critic.ranking, name="critic.ranking", partial=True),
        refresh=build(critic.refresh, name="critic.refresh"),
        guard=build(critic.guard, name="critic.guard"),
    )


def _check_kinds(config: Config, parts: Parts, tasks: Sequence[Task]) -> None:
    """The critic ranks what has no verifier, and nothing else (K2 §3.2.2)."""
    kinds = set(config.critic.kinds)
    for task in parts.held_out:
        if task.kind in kinds:
            raise ValueError(
                f"tasks.held_out must have a verifier, but task {task.id} is of a kind in critic.kinds "
                f"({task.kind}); measure such tasks in tasks.sets, with a reward of their own"
            )
    doubly = kinds & (parts.reward.named_kinds if isinstance(parts.reward, Combined) else set())
    if doubly:
        raise ValueError(
            f"critic.kinds must be kinds without a verifier, but reward.parts has one for {', '.join(sorted(doubly))}"
        )
    if parts.critic is None or not kinds:
        return
    fit = Fit(chat=parts.chat, tokens=config.model.context - config.critic.max_tokens)
    for task in tasks:
        rubrics = parts.critic.rubrics.for_task(task)
        if not rubrics.rubrics:
            raise ValueError(
                f"critic.rubrics must hold a rubric for task {task.id} (kind {task.kind}, tags "
                f"{', '.join(task.tags)}), got none in {', '.join(config.critic.rubrics)} whose scope it is in; tasks "
                "with a verifier need one too, because the critic learns from them (correct, for example)"
            )
        if parts.critic.prompts.compare(task, ("", ""), rubrics, fit) is None:
            raise ValueError(
                f"critic.prompts.comparison with critic.rubrics must leave room for two replies to task {task.id} in "
                f"model.context less critic.max_tokens, got {fit.tokens} tokens; raise model.context, or choose fewer "
                "or shorter rubrics"
            )


def _try_environment(parts: Parts, task: Task) -> None:
    """Begin one rollout of the task without a policy, so that an environment that cannot work fails here."""
    if task.env not in parts.envs:
        raise ValueError(
            f"env must define the environment {task.env!r} that task {task.id} asks for, got {sorted(parts.envs)}"
        )

    async def begin() -> Any:
        env = parts.envs[task.env]()
        try:
            return await env.reset(task)
        finally:
            await env.close()

    try:
        opening = asyncio.run(begin())
    except ToolMissingError as error:
        raise ValueError(f"env.{task.env}: {error}") from error
    if not isinstance(opening, Opening):
        raise ValueError(f"env.{task.env}: reset must return an envs.base.Opening, got {opening!r}")
    if opening.tools and not parts.chat.calls_tools:
        raise ValueError(
            f"model.path must have a chat template that writes tool calls in a known format, because env.{task.env} "
            "offers tools; known are Kimi K2's tokens and <tool_call> tags"
        )


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
