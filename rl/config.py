"""The configuration's schema: what may be set, of which type, with which default, and which values make sense.

``conf/`` holds the values; Hydra checks names and types against these classes when it composes them. Parts named by
``_target_`` (rewards, environments, task sources, advantages, losses) are plain mappings here: their own signature
is their schema, checked when they are built, which is before anything starts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from omegaconf import MISSING


class Placement(StrEnum):
    """Where trainer ranks and engines live."""

    cpu = "cpu"
    """On CPUs; threads are shared, because trainer and engines take turns."""
    separate = "separate"
    """Each on GPUs of its own."""
    colocated = "colocated"
    """Engines on the trainer ranks' GPUs."""


class Transport(StrEnum):
    """How weights travel."""

    auto = "auto"
    """What fits the placement: ``object_store`` on CPUs, ``nccl`` to GPUs of their own, ``cuda_ipc`` on shared ones."""
    object_store = "object_store"
    """Through Ray's object store, which spans any cluster."""
    nccl = "nccl"
    """Broadcast from the trainer's first rank to all engines by NCCL; by gloo where there are no GPUs."""
    cuda_ipc = "cuda_ipc"
    """Through GPU memory that a trainer rank shares with the engines on its GPU; through shared memory without GPUs."""


class Dtype(StrEnum):
    """What an engine computes in. Published weights are bf16 in either case."""

    bfloat16 = "bfloat16"
    float32 = "float32"


class Resume(StrEnum):
    auto = "auto"
    """Continue from the newest complete checkpoint of the run folder, or start if there is none."""
    never = "never"
    """Start anew; refuse if the run folder already holds a run."""


class CriticMode(StrEnum):
    """Whose weights judge."""

    none = "none"
    """Nobody judges."""
    self = "self"
    """The policy's: it judges its own rollouts, and learns to from the same updates."""
    separate = "separate"
    """A critic's own, on engines and trainer ranks of its own; they start as the policy did."""
    frozen = "frozen"
    """Those that the policy started with, on engines of their own: the control."""


class WandbMode(StrEnum):
    auto = "auto"
    """Online when the user is logged in, else offline."""
    online = "online"
    offline = "offline"
    disabled = "disabled"


@dataclass
class ModelConfig:
    path: str = MISSING
    """Hugging Face folder or name: weights, config, tokenizer with a chat template."""
    context: int = 512
    """Longest prompt plus completion, in tokens."""


@dataclass
class TasksConfig:
    per_iteration: int = 32
    """Tasks (rollout groups) per iteration."""
    stream: dict[str, Any] = field(default_factory=lambda: {"_target_": "rl.tasks.TaskStream"})
    """In which order training tasks are taken."""
    train: dict[str, Any] = field(default_factory=dict)
    held_out: dict[str, Any] = field(default_factory=dict)
    sets: dict[str, Any] = field(default_factory=dict)
    """More sets to measure, by name, each with ``tasks`` and a ``reward`` of its own that training never sees.
    ``count``, or else ``evaluation.tasks``, says how many of its tasks."""


@dataclass
class RolloutConfig:
    group_size: int = 8
    """Rollouts per task (K)."""
    max_tokens: int = 96
    """Most tokens that the policy may write per rollout; a longer one is cut and ends with reason ``budget``."""
    spare: int = 0
    """Rollouts begun per task beyond ``group_size``. Once ``group_size`` have ended the others are given up: nobody
    waits for the slowest, and what is long is seen less often."""
    turn_tokens: int | None = None
    """Most tokens of one policy turn, for environments of many; null leaves a turn the whole budget."""
    keep_outputs: int | None = None
    """When the context has no room for a turn any more, all tool outputs but so many newest are hidden; null ends the
    rollout instead. Needs ``turn_tokens``."""
    repetitions: int | None = 8
    """A rollout that says a stretch of up to 64 tokens so often in a row ends with reason ``repetition``; null lets it
    go on."""
    env_deadline_s: float = 120.0
    """Longest time for one answer of an environment; a slower one is a fault (``fault/env``)."""
    temperature: float = 1.0
    """Of the first iteration. Sampler, recorded logprobs and trainer use the same one."""
    last_temperature: float | None = None
    """Of the last iteration, with a line in between; null keeps ``temperature``. Evaluation has its own."""
    seeded: bool = True
    """Whether each request draws from its own seed: repeatable, but on a GPU a Python loop over requests every step."""
    iteration_tokens: int | None = None
    """Most tokens of one rollout in one iteration; then it is paused and goes on in the next. Null sets no limit."""
    iteration_s: float | None = None
    """Seconds after which an iteration pauses what has not ended; null waits for all."""
    asynchronous: bool = False
    """Rollouts go on while the trainer works, and new weights reach them where they are. Needs ``max_staleness``."""
    max_staleness: int = 0
    """By how many iterations the weights that sampled a token may be behind those that learn from it. Older tokens are
    context that is not learnt. Asynchronous rollouts are begun at most so many iterations ahead."""
    workers: int = 1
    """Engines."""
    dtype: Dtype = Dtype.bfloat16
    concurrency: int = 256
    """Sequences that one engine works on at once."""
    tensor_parallel: int = 1
    kv_cache_gib: float | None = 0.25
    """Cache per engine; null takes what ``gpu_memory_share`` leaves. Engines that share a GPU need it set."""
    gpu_memory_share: float = 0.85
    """Of a GPU, for one engine with weights and cache."""
    sleep: bool = False
    """Engines that share GPUs with the trainer let go of weights and cache while it learns, and the trainer of its
    optimizer's state while they sample. Costs seconds an iteration, and lets larger models fit."""
    enforce_eager: bool = True
    deadline_s: float = 600.0
    """Longest time that an engine may be silent while it owes answers."""


@dataclass
class BudgetConfig:
    """How many tokens a rollout should take, where that is less than ``rollout.max_tokens`` or its kind's."""

    policy: dict[str, Any] = field(default_factory=lambda: {"_target_": "rl.budget.Fixed"})
    cut: bool = True
    """End a rollout at its budget. Otherwise only rewards know of it (``rewards.length.Toggle``)."""
    penalty: float = 0.25
    """Taken off the score of a training rollout that was cut at its budget, or went beyond."""


@dataclass
class EnvPoolConfig:
    """Where environments run, and how many at once."""

    services: int = 0
    """Ray actors that environments run in, apart from engines and trainer ranks; 0 keeps them in the driver."""
    concurrency: int = 1024
    """Calls to one kind of environment at work at once; others wait, and their deadline does not run meanwhile."""
    limits: dict[str, int] = field(default_factory=dict)
    """The same for single kinds, by the name in ``env``."""
    cpus: float = 0.0
    """CPUs that Ray sets aside for each service."""
    resource: str | None = None
    """Ray resource that marks the nodes for environments; null takes any node."""


@dataclass
class RewardPoolConfig:
    """The processes that rewards run in."""

    workers: int | None = None
    """Rewards computed at once; null takes one per core, at most 8."""
    deadline_s: float = 30.0
    """Longest time for one reward; a slower one is a fault (``fault/reward/timeout``) and not a score of 0."""
    memory_mib: int = 4096
    """What one reward may allocate."""


@dataclass
class KindConfig:
    """What is different for one kind of task."""

    group_size: int | None = None
    """Null takes ``rollout.group_size``."""
    max_tokens: int | None = None
    """Null takes ``rollout.max_tokens``."""
    weight: float = 1.0
    """Of one of its groups in the objective, relative to others."""
    temperature: float | None = None
    """Of the first iteration; null takes ``rollout.temperature`` and ``last_temperature``."""
    last_temperature: float | None = None


@dataclass
class CriticConfig:
    """Self-critique: who judges what no verifier can, by which rubrics, and how it keeps learning to."""

    mode: CriticMode = CriticMode.none
    kinds: list[str] = field(default_factory=list)
    """Kinds of training tasks whose rollouts the critic ranks; the reward is not asked about them."""
    rubrics: list[str] = field(default_factory=lambda: ["core", "prescriptive", "correct"])
    """YAML files, or names of shipped ones."""
    prompts: dict[str, Any] = field(default_factory=lambda: {"_target_": "critic.prompts.Prompts"})
    pairs: dict[str, Any] = field(default_factory=lambda: {"_target_": "critic.pairs.Regular"})
    ranking: dict[str, Any] = field(default_factory=lambda: {"_target_": "critic.ranking.win_rate"})
    refresh: dict[str, Any] = field(default_factory=lambda: {"_target_": "critic.refresh.Refresh"})
    guard: dict[str, Any] = field(default_factory=lambda: {"_target_": "critic.guard.Guard"})
    max_tokens: int = 256
    """Most tokens of one judgement."""
    temperature: float = 0.0
    """At which judgements are sampled; those that the critic learns from have ``rollout.temperature``."""
    graded: bool = False
    """Take the probability of the verdict for the preference, and not 0 or 1."""
    workers: int = 1
    """Engines of a separate or frozen critic."""


@dataclass
class AlgorithmConfig:
    advantage: dict[str, Any] = field(default_factory=dict)
    loss: dict[str, Any] = field(default_factory=dict)
    updates_per_iteration: int = 1
    importance_cap: float | None = None
    """Weighs each token's gradient by pi_old / pi_sampler, cut off at this; null leaves it at 1, as K2 does. For tokens
    that other weights, or other arithmetic, sampled than the update begins with."""


@dataclass
class TrainerConfig:
    ranks: int = 2
    zero_stage: int = 1
    expert_parallel: int = 1
    """Ranks among which a mixture's experts are divided, tokens travelling to them (DeepSpeed's AutoEP); with 1 each
    rank computes all experts. A divisor of ``ranks`` and of the number of experts."""
    micro_batch_tokens: int = 4096
    learning_rate: float = 4e-4
    schedule: str = "cosine"
    """``constant``, ``linear`` or ``cosine``, the latter two down to ``floor``."""
    warmup_updates: int = 0
    floor: float = 0.1
    """Lowest learning rate, as a share of the peak."""
    adam_betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    """Gradients with a larger global norm are scaled down to it; 0 turns clipping off."""
    gradient_checkpointing: bool = False
    deadline_s: float = 1800.0
    """Longest time that one call to the trainer may take."""


@dataclass
class WeightsConfig:
    bucket_mib: int = 64
    """What travels at once. Both sides hold buffers of this size, or of that of the largest parameter."""
    transport: Transport = Transport.auto
    deadline_s: float = 120.0
    """Longest time in which nothing of a transfer moves."""
    probe_prompts: int = 8
    probe_tokens: int = 24
    """Most tokens decoded, greedily, after each probe prompt."""
    max_mean_difference: float = 0.01
    """Largest mean |engine - trainer| logprob over the probe that still counts as agreement."""
    max_difference: float = 0.05
    """Largest single |engine - trainer| logprob that still counts as agreement."""


@dataclass
class EvaluationConfig:
    every: int = 10
    """Iterations between evaluations; there is always one before the first and one after the last."""
    tasks: int = 128
    samples: int = 4
    """Completions per task at ``temperature``, for pass@1 and pass@k."""
    temperature: float = 1.0
    pass_value: float = 1.0
    """A rollout passes if its score is at least this."""
    constrain_calls: bool = False
    """Sample tool calls as valid ones only. Training never does: what cannot go wrong teaches nothing."""


@dataclass
class ClusterConfig:
    placement: Placement = Placement.cpu
    address: str | None = None
    """Ray cluster to join; null starts one on this machine for the time of the run."""
    threads: int | None = None
    """CPU threads per engine, and for all trainer ranks of this machine together; null takes all cores."""
    object_store_gib: float = 0.25
    start_deadline_s: float = 600.0


@dataclass
class TrackingConfig:
    wandb: WandbMode = WandbMode.auto
    project: str = "closedloop"
    tags: list[str] = field(default_factory=list)
    table_every: int = 10
    """Iterations between W&B rollout tables."""
    table_rows: int = 16


@dataclass
class CheckpointConfig:
    every: int = 10
    """Iterations between checkpoints; the last iteration is always saved."""
    keep: int = 2


@dataclass
class Config:
    name: str = "quickstart"
    folder: str = "runs/${name}"
    """Everything the run writes goes here."""
    seed: int = 0
    iterations: int = 30
    resume: Resume = Resume.auto
    restarts: int = 3
    """How often in a row, with no new checkpoint in between, a run that lost a trainer rank or all engines goes on by
    itself from the newest checkpoint, or from the start if there is none yet."""
    model: ModelConfig = field(default_factory=ModelConfig)
    tasks: TasksConfig = field(default_factory=TasksConfig)
    reward: dict[str, Any] = field(default_factory=dict)
    reward_pool: RewardPoolConfig = field(default_factory=RewardPoolConfig)
    kinds: dict[str, Any] = field(default_factory=dict)
    """What is different for some kinds of task: by kind, settings of ``KindConfig``."""
    critic: CriticConfig = field(default_factory=CriticConfig)
    shaping: dict[str, Any] = field(default_factory=dict)
    """Rewards by comparison within a group, by name; added to the scores of training rollouts."""
    env: dict[str, Any] = field(default_factory=dict)
    """Environment classes by the name that tasks call them."""
    env_pool: EnvPoolConfig = field(default_factory=EnvPoolConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    budget: BudgetConfig = field(default_factory=BudgetConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
