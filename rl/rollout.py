"""One task, one environment, one engine: one rollout. Tokens are kept as they were sampled."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import TypeVar

from envs.base import Env, Opening, Step
from rl.protocols import ChatCodec, Engine
from rl.tool_calls import count_calls
from rl.types import EndReason, Message, Rollout, Sample, SampleRequest, Segment, Task

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class RolloutLimits:
    """How far a rollout may go. Lengths in tokens.

    ``max_tokens`` is its budget: what the policy may write in all turns together. ``turn_tokens`` cuts a single turn,
    after which the environment sees what there is of it.
    """

    max_tokens: int
    context: int
    turn_tokens: int | None = None
    env_deadline_s: float = 120.0
    """Longest wait for the environment's next answer."""


@dataclass(kw_only=True)
class Episode:
    """A rollout under way: the policy acts in ``env`` until it is done, or a limit ends it.

    ``run`` may wait in the engine for as long as that is paused, and go on under other weights: every piece of a turn
    that was sampled by one version is a segment of its own.
    """

    name: str
    """Unique among the rollouts under way."""
    task: Task
    env: Env
    engine: Engine
    chat: ChatCodec
    limits: RolloutLimits
    temperature: float
    seed: int
    segments: list[Segment] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    """Everything said after the opening."""
    timings: dict[str, float] = field(default_factory=lambda: {"generate_s": 0.0, "env_s": 0.0})

    async def run(self) -> Rollout:
        """To the end, which may be ``env_error``. Raises ``WorkerFailedError`` if the engine fails."""
        error = None
        try:
            end = await self._play()
        except EnvError as failure:
            end, error = EndReason.ENV_ERROR, str(failure)
        finally:
            closing = await self._close()
        return Rollout(
            task_id=self.task.id,
            segments=tuple(self.segments),
            messages=tuple(self.messages),
            end_reason=end,
            temperature=self.temperature,
            timings=self.timings,
            error=error or closing,
        )

    async def _play(self) -> EndReason:
        opening: Opening = await self._ask_env(self.env.reset(self.task))
        prompt = self.chat.prompt_ids(opening.messages, opening.tools)
        if self.segments:
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
            step: Step = await self._ask_env(self.env.step(self.messages[-1]))
            if step.end is not None:
                return step.end
            if not step.messages:
                raise EnvError("the environment must say something or end the rollout, got neither")
            if not all(isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in step.messages):
                raise EnvError(f"messages must have role and content, both text, got {step.messages}")
            self.messages.extend(step.messages)
            self._hear(self.chat.continuation_ids(step.messages))

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
            step: Step = await self._ask_env(self.env.step(self.messages[here]))
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
                    prompt_ids=[t for s in self.segments for t in s.token_ids],
                    max_tokens=room,
                    temperature=self.temperature,
                    seed=(self.seed + len(self.segments)) % 2**63,
                    session=self.name,
                )
            )
            self._said(sample)
            turn += sample.token_ids
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
            self.limits.context - sum(len(s.token_ids) for s in self.segments),
        )
        turn = self.limits.turn_tokens
        return (whole, True) if turn is None or whole <= turn - said else (turn - said, False)

    def _said(self, sample: Sample) -> None:
        self.timings["generate_s"] += sample.generate_s
        if sample.token_ids:
            self.segments.append(
                Segment(
                    token_ids=tuple(sample.token_ids),
                    from_model=True,
                    sampler_logprobs=tuple(sample.logprobs),
                    policy_version=sample.policy_version,
                )
            )

    def _hear(self, token_ids: list[int]) -> None:
        self.segments.append(Segment(token_ids=tuple(token_ids), from_model=False))

    async def _ask_env(self, answer: Awaitable[T]) -> T:
        started = time.monotonic()
        try:
            async with asyncio.timeout(self.limits.env_deadline_s):
                return await answer
        except TimeoutError as error:
            raise EnvError(f"the environment gave no answer within {self.limits.env_deadline_s:g} s") from error
        except Exception as error:
            raise EnvError(repr(error)) from error
        finally:
            self.timings["env_s"] += time.monotonic() - started

    async def _close(self) -> str | None:
        """What went wrong at closing, if anything did: the rollout counts all the same."""
        try:
            async with asyncio.timeout(self.limits.env_deadline_s):
                await self.env.close()
        except Exception as error:  # noqa: BLE001 - as above
            return f"the environment did not close: {error!r}"
        return None


class EnvError(Exception):
    """The environment raised, or kept silent past its deadline."""
