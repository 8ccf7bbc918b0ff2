"""One task, one environment, one engine: one rollout. Tokens are kept as they were sampled."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from envs.base import Ask, Asking, Env, Opening, Step
from rl.errors import EnvLostError
from rl.protocols import ChatCodec, Engine
from rl.tool_calls import count_calls
from rl.types import EndReason, Message, Rollout, Sample, SampleRequest, Segment, Task

T = TypeVar("T")
REBUILDS = 2
"""How often one rollout may lose its environment with the process it ran in, and go on in a new one."""
HIDDEN = "[hidden]"
"""Stands for a tool's output that was hidden to make room."""


@dataclass(frozen=True, kw_only=True)
class RolloutLimits:
    """How far a rollout may go. Lengths in tokens.

    ``max_tokens`` is what the policy may write in all turns together. ``turn_tokens`` cuts a single turn, after which
    the environment sees what there is of it. With ``keep_outputs``, tool outputs but that many newest are hidden once
    the context has less room than a turn may need (K2 Thinking); otherwise a full context ends the rollout.
    """

    max_tokens: int
    context: int
    turn_tokens: int | None = None
    keep_outputs: int | None = None
    views: int = 1
    """Most views of one rollout, so that all of them fit into one micro-batch."""
    env_deadline_s: float = 120.0
    """Longest wait for the environment's next answer."""


@dataclass(kw_only=True)
class Episode:
    """A rollout under way: the policy acts in an environment until that is done, or a limit ends it.

    ``run`` may wait in the engine for as long as that is paused, and go on under other weights: every piece of a turn
    that was sampled by one version is a segment of its own.
    """

    name: str
    """Unique among the rollouts under way."""
    task: Task
    make_env: Callable[[], Env]
    engine: Engine
    chat: ChatCodec
    limits: RolloutLimits
    temperature: float
    seed: int
    budget: int | None = None
    """For the record: see ``Rollout.budget``."""
    slot: AbstractAsyncContextManager[None] = field(default_factory=nullcontext)
    """Held while the environment is at work."""
    constrain: bool = False
    """Whether tool calls can only be sampled as valid ones."""
    others: Mapping[str, Engine] = field(default_factory=dict)
    """Models besides the policy that the environment may ask, by name."""
    segments: list[Segment] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    """Everything said after the opening."""
    heard: list[str] = field(default_factory=list)
    """What models said to the environment, which a new environment is told again."""
    timings: dict[str, float] = field(default_factory=lambda: {"generate_s": 0.0, "env_s": 0.0})
    prompt_tokens: int = 0
    cached_tokens: int = 0
    _env: Env = field(init=False)
    _outcome: Mapping[str, Any] = field(init=False, default_factory=dict)
    _structure: str | None = field(init=False, default=None)
    _told: int = field(init=False, default=0)
    """How much of ``heard`` the present environment knows."""
    _view: list[int] = field(init=False, default_factory=list)
    """What the engine sees: all tokens since the last view began."""

    async def run(self) -> Rollout:
        """To the end, which may be ``env_error``. Raises ``WorkerFailedError`` if the engine fails."""
        error = closing = None
        end = EndReason.ENV_ERROR
        for attempt in range(REBUILDS + 1):
            self._env, self._told = self.make_env(), 0
            try:
                end, error = await self._play(), None
                break
            except EnvLostError as lost:
                error = f"{lost}, {attempt + 1} times"
            except EnvError as failure:
                error = str(failure)
                break
            finally:
                closing = await self._close()
        return Rollout(
            task_id=self.task.id,
            segments=_until_last_word(self.segments),
            messages=tuple(self.messages),
            end_reason=end,
            temperature=self.temperature,
            budget=self.budget,
            prompt_tokens=self.prompt_tokens,
            cached_tokens=self.cached_tokens,
            outcome=self._outcome,
            timings=self.timings,
            error=error or closing,
        )

    async def _play(self) -> EndReason:
        opening: Opening = await self._ask_env(self._env.reset(self.task))
        prompt = self.chat.prompt_ids(opening.messages, opening.tools)
        self._structure = self.chat.call_structure(opening.tools) if self.constrain else None
        if self.segments:
            self._view = [t for s in _last_view(self.segments) for t in s.token_ids]
            await self._replay(prompt)
        else:
            self._hear(prompt)
        while True:
            if not self._env_is_next:
                turn, end = await self._turn()
                if turn:
                    self.messages.append(self.chat.read(turn, call_number=count_calls(self.messages)))
                if end is not None:
                    return end
            step = await self._reply(self.messages[-1])
            if step.end is not None:
                self._outcome = _json(step.outcome)
                return step.end
            if not step.messages:
                raise EnvError("the environment must say something or end the rollout, got neither")
            if not all(isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in step.messages):
                raise EnvError(f"messages must have role and content, both text, got {step.messages}")
            self.messages.extend(step.messages)
            self._hear(self.chat.continuation_ids(step.messages))
            self._make_room()

    @property
    def _env_is_next(self) -> bool:
        return bool(self.messages) and self.messages[-1]["role"] == "assistant"

    async def _replay(self, prompt: list[int]) -> None:
        """Bring a new environment to where the rollout stands. It must say again what the one before it said."""
        same = list(self.segments[0].token_ids) == prompt
        turns = [i for i, message in enumerate(self.messages) if message["role"] == "assistant"]
        for here, following in itertools.pairwise([*turns, len(self.messages)]):
            if not same or (here == turns[-1] and self._env_is_next):
                break
            step = await self._reply(self.messages[here])
            same = step.end is None and list(step.messages) == self.messages[here + 1 : following]
        if not same:
            raise EnvError("a new environment, given the same task and turns, said something else than the one before")

    async def _turn(self) -> tuple[list[int], EndReason | None]:
        """The policy's next turn, in as many pieces as it takes, and why the rollout ends with it, if it does."""
        turn = self._open_turn()
        while True:
            room, last = self._room(len(turn))
            if room <= 0:
                return turn, EndReason.BUDGET
            sample = await self.engine.sample(
                SampleRequest(
                    prompt_ids=tuple(self._view),
                    max_tokens=room,
                    temperature=self.temperature,
                    seed=(self.seed + len(self.segments)) % 2**63,
                    structure=self._structure,
                    session=self.name,
                )
            )
            self._said(sample)
            turn += sample.token_ids
            if sample.repetitive:
                return turn, EndReason.REPETITION
            if sample.stopped:
                return turn, None
            if not sample.interrupted:
                if last:
                    return turn, EndReason.BUDGET
                self._hear(self.chat.end_ids())
                return turn, None

    def _open_turn(self) -> list[int]:
        """What the policy said since the environment last did."""
        said = itertools.takewhile(lambda s: s.from_model, reversed(self.segments))
        return [t for segment in reversed(list(said)) for t in segment.token_ids]

    def _room(self, said: int) -> tuple[int, bool]:
        """Tokens that may still be sampled in this turn, and whether the rollout is over once they are."""
        whole = min(
            self.limits.max_tokens - sum(len(s.token_ids) for s in self.segments if s.from_model),
            self.limits.context - len(self._view),
        )
        turn = self.limits.turn_tokens
        return (whole, True) if turn is None or whole <= turn - said else (turn - said, False)

    def _said(self, sample: Sample) -> None:
        self.timings["generate_s"] += sample.generate_s
        self.prompt_tokens += len(self._view)
        self.cached_tokens += sample.cached_tokens
        if sample.token_ids:
            self._view += sample.token_ids
            self.segments.append(
                Segment(
                    token_ids=tuple(sample.token_ids),
                    from_model=True,
                    sampler_logprobs=tuple(sample.logprobs),
                    policy_version=sample.policy_version,
                )
            )

    def _hear(self, token_ids: list[int], *, new_view: bool = False) -> None:
        self.segments.append(Segment(token_ids=tuple(token_ids), from_model=False, new_view=new_view))
        self._view = list(token_ids) if new_view else self._view + token_ids

    def _make_room(self) -> None:
        """Begin a new view with old tool outputs hidden, if the context is about to overflow and that helps."""
        keep, turn = self.limits.keep_outputs, self.limits.turn_tokens
        if keep is None or self.limits.context - len(self._view) >= (turn or 1):
            return
        if 1 + sum(segment.new_view for segment in self.segments) >= self.limits.views:
            return
        outputs = [i for i, message in enumerate(self.messages) if message["role"] == "tool"]
        hidden = set(outputs[: len(outputs) - keep])
        said = [list(run) for from_model, run in itertools.groupby(self.segments, lambda s: s.from_model) if from_model]
        turns = iter([t for segment in run for t in segment.token_ids] for run in said)
        ids = list(self.segments[0].token_ids)
        end = self.chat.end_ids()
        numbered = enumerate({**m, "content": HIDDEN} if i in hidden else m for i, m in enumerate(self.messages))
        for by_policy, run in itertools.groupby(numbered, lambda pair: pair[1]["role"] == "assistant"):
            if by_policy:
                turn_ids = next(turns)
                ids += turn_ids if turn_ids[-len(end) :] == end else [*turn_ids, *end]
            else:
                ids += self.chat.continuation_ids([message for _, message in run])
        if len(ids) < len(self._view):
            self.segments.pop()  # what was just heard: the policy sees it in the new view alone
            self._hear(ids, new_view=True)

    async def _reply(self, message: Message) -> Step:
        """What the environment says to a policy turn, once a model has said what the environment asks for."""
        step: Step = await self._ask_env(self._env.step(message))
        while step.ask is not None:
            if self._told == len(self.heard):
                self.heard.append(await self._consult(step.ask))
            self._told += 1
            step = await self._ask_env(cast("Asking", self._env).hear(self.heard[self._told - 1]))
        return step

    async def _consult(self, ask: Ask) -> str:
        engine = self.engine if ask.by == "policy" else self.others.get(ask.by)
        if engine is None:
            raise EnvError(f"ask.by must be policy or {' or '.join(self.others) or 'nothing else'}, got {ask.by}")
        # What the policy wrote is quoted there: characters that spell the end of a turn must not end one.
        prompt = self.chat.prompt_ids([{**m, "content": self.chat.plain(str(m["content"]))} for m in ask.messages])
        if len(prompt) + ask.max_tokens > self.limits.context:
            raise EnvError(
                f"what the environment asks a model must fit into model.context ({self.limits.context} tokens), got "
                f"{len(prompt)} and {ask.max_tokens} for the answer"
            )
        said: list[int] = []
        while True:
            sample = await engine.sample(
                SampleRequest(
                    prompt_ids=[*prompt, *said],
                    max_tokens=ask.max_tokens - len(said),
                    temperature=ask.temperature,
                    seed=(self.seed + 1_000_003 * (len(self.heard) + 1) + len(said)) % 2**63,
                    session=f"{self.name}/{ask.by}",
                )
            )
            said += sample.token_ids
            if not sample.interrupted or len(said) >= ask.max_tokens:
                return self.chat.decode(said)

    async def _ask_env(self, answer: Awaitable[T]) -> T:
        started = time.monotonic()
        try:
            async with self.slot, asyncio.timeout(self.limits.env_deadline_s):
                return await answer
        except TimeoutError as error:
            raise EnvError(f"the environment gave no answer within {self.limits.env_deadline_s:g} s") from error
        except EnvLostError:
            raise
        except Exception as error:
            raise EnvError(repr(error)) from error
        finally:
            self.timings["env_s"] += time.monotonic() - started

    async def _close(self) -> str | None:
        """What went wrong at closing, if anything did: the rollout counts all the same."""
        try:
            async with asyncio.timeout(self.limits.env_deadline_s):
                await self._env.close()
        except Exception as error:  # noqa: BLE001 - as above
            return f"the environment did not close: {error!r}"
        return None


def _json(outcome: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        json.dumps(dict(outcome), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise EnvError(f"the outcome must be JSON: {error}") from error
    return outcome


def _until_last_word(segments: list[Segment]) -> tuple[Segment, ...]:
    """The prompt and everything up to what the policy said last: nothing follows from what it did not answer."""
    said = [i for i, segment in enumerate(segments) if segment.from_model]
    return tuple(segments[: said[-1] + 1 if said else 1])


def _last_view(segments: list[Segment]) -> list[Segment]:
    starts = [i for i, segment in enumerate(segments) if segment.new_view]
    return segments[starts[-1] :] if starts else segments


class EnvError(Exception):
    """The environment raised, or kept silent past its deadline."""
