"""The records that travel between the parts of the system, one per arrow of the data flow.

All are immutable and hold plain Python values or NumPy arrays, so they cross process boundaries as they are.
Lengths are in tokens and times in seconds unless a field says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Message = Mapping[str, Any]
"""One chat message: ``role``, ``content`` and, for tool use, ``tool_calls``."""

ON_DISK = -1
"""Version of weights that were never published: the model as it lies on disk."""


class EndReason(StrEnum):
    """Why a rollout ended."""

    STOP = "stop"
    """The policy ended its own turn and the environment had nothing to add."""
    BUDGET = "budget"
    """Cut at its token budget or at the end of the context."""
    REPETITION = "repetition"
    """Cut because the policy said the same thing over and over."""
    ENV_END = "env_end"
    """The environment's task is over."""
    TURN_LIMIT = "turn_limit"
    """The policy would have acted on, but had taken as many turns as it may."""
    ENV_ERROR = "env_error"
    ABORTED = "aborted"

    @property
    def truncated(self) -> bool:
        """Whether a limit ended the rollout, and not the policy or the environment (Gymnasium's distinction)."""
        return self in (EndReason.BUDGET, EndReason.REPETITION, EndReason.TURN_LIMIT, EndReason.ABORTED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One problem to solve.

    ``fields`` holds what the reward needs, by name (``answer``, ``tests``, ``constraints`` …). ``kind`` selects
    budgets and metrics: math, code, instruct, chat, judge and so on.
    """

    id: str
    kind: str
    messages: tuple[Message, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    env: str = "single_turn"
    tags: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleRequest:
    """What an engine is asked for: one continuation of exactly these tokens.

    ``max_tokens`` is the most tokens to sample, ``seed`` fixes the sampling noise of this request alone
    (engines that do without seeds, ``rollout.seeded``, pass over it).
    ``temperature`` 0 means greedy. With ``ignore_eos`` exactly ``max_tokens`` are sampled.
    """

    prompt_ids: Sequence[int]
    max_tokens: int
    temperature: float
    seed: int
    ignore_eos: bool = False
    structure: str | None = None
    """What the sample must look like, as an xgrammar structural tag in JSON; see ``rl.tool_calls.structure``."""
    session: str = ""
    """Which rollout asks. Requests of one go to one engine, which still has their common prefix in its cache."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """An engine's answer. ``logprobs[i]`` is that of ``token_ids[i]`` under the distribution sampled from."""

    token_ids: Sequence[int]
    logprobs: Sequence[float]
    stopped: bool
    """True if the policy ended its turn, False if it was cut by ``max_tokens``, or interrupted."""
    policy_version: int
    generate_s: float
    interrupted: bool = False
    """True if the engine stopped before the request was through, because its weights were about to change."""
    cached_tokens: int = 0
    """How many of the prompt's tokens were still in the engine's cache."""
    repetitive: bool = False
    """True if the engine cut it because it said one thing over and over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segment:
    """A stretch of a rollout's tokens with one author: the policy (``from_model``) or the environment."""

    token_ids: Sequence[int]
    from_model: bool
    sampler_logprobs: Sequence[float] = ()
    """One per token where ``from_model``, else empty."""
    policy_version: int | None = None
    """Version of the weights that sampled it; None for environment text."""
    new_view: bool = False
    """True where the engine sees nothing of the segments before it: the conversation begins here once more, with old
    tool outputs hidden. What the policy had said is context in it, and is learnt where it was sampled."""

    def __post_init__(self) -> None:
        if self.from_model and len(self.sampler_logprobs) != len(self.token_ids):
            raise ValueError(
                f"sampler_logprobs must hold one value per sampled token, got {len(self.sampler_logprobs)} "
                f"for {len(self.token_ids)} tokens"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Rollout:
    """One trajectory: the tokens as they were sampled, and the conversation as text for environments and rewards."""

    task_id: str
    segments: tuple[Segment, ...]
    messages: tuple[Message, ...]
    """Everything said after the task's own messages."""
    end_reason: EndReason
    temperature: float = 1.0
    """At which it was sampled, and of which its logprobs are."""
    budget: int | None = None
    """Tokens that it should have taken at most; see ``rl.budget``."""
    prompt_tokens: int = 0
    """Of all requests to the engine."""
    cached_tokens: int = 0
    """Those of ``prompt_tokens`` that the engine had in its cache."""
    outcome: Mapping[str, Any] = field(default_factory=dict)
    """What the environment has to say about how it ended, for rewards: a patch, the state of a world."""
    timings: Mapping[str, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def completion(self) -> str:
        """Text of the policy's last message, empty if it said nothing."""
        said = [m["content"] for m in self.messages if m["role"] == "assistant"]
        return str(said[-1]) if said else ""

    @property
    def views(self) -> list[tuple[Segment, ...]]:
        """The segments as the engine saw them: more than one view if old tool outputs were hidden on the way."""
        views: list[list[Segment]] = []
        for segment in self.segments:
            if not views or segment.new_view:
                views.append([])
            views[-1].append(segment)
        return [tuple(view) for view in views]

    @property
    def token_ids(self) -> list[int]:
        """All tokens, prompt first."""
        return [t for s in self.segments for t in s.token_ids]

    @property
    def loss_mask(self) -> list[bool]:
        """True where the policy wrote the token."""
        return [s.from_model for s in self.segments for _ in s.token_ids]

    @property
    def sampler_logprobs(self) -> list[float]:
        """One value per token of ``token_ids``, 0 where the policy did not write it."""
        return [x for s in self.segments for x in (s.sampler_logprobs if s.from_model else [0.0] * len(s.token_ids))]

    @property
    def completion_tokens(self) -> int:
        """Number of tokens that the policy wrote."""
        return sum(len(s.token_ids) for s in self.segments if s.from_model)


class Fault(StrEnum):
    """Why a rollout has no score: a failure of the machinery, never of the policy. Its rollout leaves its group."""

    ENV = "env"
    """The environment failed."""
    TIMEOUT = "timeout"
    """The reward was still at work at its deadline."""
    MEMORY = "memory"
    """The reward asked for more memory than a call may have."""
    CRASH = "crash"
    """The process that ran the reward died."""
    EXCEPTION = "exception"
    """The reward raised."""
    INVALID = "invalid"
    """The reward returned something else than a finite number in its declared range."""
    TOOL = "tool"
    """Something that the reward depends on is missing or does not work: a sandbox, a judge, a program."""
    ENGINE = "engine"
    """The engine that sampled it died."""
    CRITIC = "critic"
    """The critic could not judge it: no answer that makes sense, or none at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """What a reward leaves to a judge: a task for the critic, and what a full "yes" adds to the score.

    ``name`` tells it from the reward's other questions.
    """

    name: str
    task: Task
    weight: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """What a judge answered: the probability of "yes", or of preferring the first of two responses."""

    value: float | None
    """0 to 1; None if no answer came, or none that could be read."""
    version: int
    """Version of the weights that judged; -1 is the model as it lies on disk."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """A reward's result. Where ``fault`` is set the reward itself failed and ``value`` is meaningless."""

    value: float
    parts: Mapping[str, float] = field(default_factory=dict)
    fault: Fault | None = None
    error: str | None = None
    """What went wrong, in words; set with ``fault``."""
    questions: tuple[Question, ...] = ()
    """Judgements still to be added to ``value``."""
    verdicts: Mapping[str, float] = field(default_factory=dict)
    """What the critic said, 0 to 1, by what it was asked: the name of a question, ``over/3`` for how far it preferred
    this rollout to the group's fourth, ``keeps/<rubric>`` for a mandatory rubric."""
    critic_version: int | None = None
    """Version of the weights that judged; -1 is the model as it lies on disk."""
    rubric_hash: str | None = None

    @classmethod
    def failed(cls, fault: Fault, error: str) -> Score:
        return cls(value=0.0, fault=fault, error=error)


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutGroup:
    """The rollouts of one task that are compared with each other, and their scores, in the same order."""

    task: Task
    rollouts: tuple[Rollout, ...]
    scores: tuple[Score, ...]
    weight: float = 1.0
    """Share in the objective, relative to the other groups of the update."""
    supervised: bool = False
    """Learnt by cross-entropy of the rollouts' own tokens, whatever their scores, and not by comparison."""

    def __post_init__(self) -> None:
        if len(self.rollouts) != len(self.scores):
            raise ValueError(
                f"scores must hold one score per rollout, got {len(self.scores)} for {len(self.rollouts)} rollouts"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class TensorSpec:
    """Where one tensor lies in its bucket, in bytes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class BucketSpec:
    """Layout of one bucket: what travels of a version at once."""

    tensors: tuple[TensorSpec, ...]
    nbytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class WeightVersion:
    """One published set of weights. ``digest`` covers every name, shape and byte."""

    number: int
    digest: str
    digests: tuple[str, ...]
    """Of each bucket's content."""
    nbytes: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Loaded:
    """What an engine says after it took a version."""

    digests: tuple[str, ...]
    """Of each bucket as it arrived."""
    empty: tuple[str, ...]
    """The engine's parameters that received nothing."""
    again: bool = False
    """Whether it needs the same transfer once more to find its shortest way of loading."""
