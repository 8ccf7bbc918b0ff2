"""Playing an environment with scripted turns, and what is wrong about how it answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from envs.base import Env, Opening, Step
from rl.types import EndReason, Message, Task

ANSWERS = "answers everything in time"
MESSAGES = "messages are well-formed"
OUTCOME = "outcomes are JSON"
TOOLS = "tools have JSON schemas"
SAME = "says the same to the same turns"
APART = "other instances make no difference"
CLOSES = "closes after a failed reset"
CHECKS = (ANSWERS, MESSAGES, OUTCOME, TOOLS, SAME, APART, CLOSES)

MOST_ASKS = 100
"""Questions to models in a row before an environment counts as one that never answers."""


class UnfitError(Exception):
    """What a check found; ``check`` is one of ``CHECKS``."""

    def __init__(self, check: str, text: str) -> None:
        super().__init__(text)
        self.check = check


@dataclass
class Play:
    """One episode: a new instance, reset, scripted turns, close."""

    make: Callable[[], Env]
    task: Task
    deadline_s: float
    took: Callable[[float], None]
    """Told the seconds of every answer."""
    ended: Callable[[EndReason], None]

    async def run(self, turns: Sequence[Message]) -> list[Any]:
        """All that the environment said: the opening, then each step. Raises ``UnfitError`` for what is not fit."""
        env = self.make()
        try:
            said = await self._converse(env, turns)
        except UnfitError:
            with contextlib.suppress(UnfitError):
                await self._timed(env.close, "close")
            raise
        await self._timed(env.close, "close")
        return said

    async def _converse(self, env: Env, turns: Sequence[Message]) -> list[Any]:
        opening: Opening = await self._timed(lambda: env.reset(self.task), "reset", Opening)
        said = [{"messages": _sound(opening.messages, "the opening", (), ()), "tools": _declared(opening.tools)}]
        for number, turn in enumerate(turns, start=1):
            step = await self._reply(env, turn, f"turn {number}")
            said.append(self._checked(step, turn, f"task {self.task.id}: turn {number}", bool(opening.tools)))
            if step.end is not None:
                self.ended(step.end)
                break
        return said

    async def _reply(self, env: Any, turn: Message, what: str) -> Step:
        step: Step = await self._timed(lambda: env.step(turn), what, Step)
        for _ in range(MOST_ASKS):
            if step.ask is None:
                return step
            step = await self._timed(lambda: env.hear("Please go on."), what, Step)
        raise UnfitError(ANSWERS, f"task {self.task.id}: {what}: asks models without end")

    def _checked(self, step: Step, turn: Message, what: str, offers_tools: bool) -> dict[str, Any]:
        if step.end is None:
            if not step.messages:
                raise UnfitError(MESSAGES, f"{what}: neither says something nor ends the rollout")
            wanted = [part["id"] for part in turn.get("tool_calls", ())] if offers_tools else []
            messages = _sound(step.messages, what, ("assistant",), wanted)
            return {"messages": messages, "end": None}
        if not isinstance(step.end, EndReason):
            raise UnfitError(MESSAGES, f"{what}: end must be an EndReason, got {step.end!r}")
        try:
            return {"end": step.end, "outcome": json.dumps(dict(step.outcome), allow_nan=False, sort_keys=True)}
        except (TypeError, ValueError) as error:
            raise UnfitError(OUTCOME, f"{what}: {error}") from error

    async def _timed(self, start: Callable[[], Awaitable[Any]], what: str, kind: type = object) -> Any:
        await asyncio.sleep(0)  # let plays at the same time take turns
        started = time.monotonic()
        found = await in_time(start, f"task {self.task.id}: {what}", self.deadline_s)
        self.took(time.monotonic() - started)
        if not isinstance(found, kind):
            raise UnfitError(ANSWERS, f"task {self.task.id}: {what} must give {kind.__name__}, got {shown(found)}")
        return found


async def in_time(start: Callable[[], Awaitable[Any]], what: str, deadline_s: float) -> Any:
    started = time.monotonic()
    try:
        async with asyncio.timeout(deadline_s):
            found = await start()
    except TimeoutError:
        raise UnfitError(ANSWERS, f"{what}: no answer within {deadline_s:g} s") from None
    except Exception as error:
        raise UnfitError(ANSWERS, f"{what}: raised {error!r}") from error
    if time.monotonic() - started > deadline_s:  # it let nobody else act meanwhile, not even the clock
        raise UnfitError(ANSWERS, f"{what}: no answer within {deadline_s:g} s")
    return found


def _sound(messages: Sequence[Any], what: str, roles: Sequence[str], calls: Sequence[str]) -> list[Any]:
    """The messages, if they are such, of none of these roles, and answer all of these calls."""
    for message in messages:
        parts = [message.get(key) for key in ("role", "content")] if isinstance(message, Mapping) else [None]
        if not all(isinstance(part, str) for part in parts) or parts[0] in roles:
            raise UnfitError(MESSAGES, f"{what}: must have a role, not the policy's, and content, got {shown(message)}")
    answered = [message["tool_call_id"] for message in messages if "tool_call_id" in message]
    if calls and answered != list(calls):
        raise UnfitError(MESSAGES, f"{what}: every call must be answered by its id, in order, got {answered}")
    return list(messages)


def _declared(tools: Sequence[Any]) -> list[Any]:
    for tool in tools:
        try:
            Draft202012Validator.check_schema(tool["function"]["parameters"])
            names = [declared["function"]["name"] for declared in tools]
        except (KeyError, TypeError, SchemaError) as error:
            reason = error.message if isinstance(error, SchemaError) else repr(error)
            raise UnfitError(
                TOOLS, f"must be as rl.tool_calls.declaration makes them, got {shown(tool)}: {reason}"
            ) from error
        if len(set(names)) < len(names):
            raise UnfitError(TOOLS, f"must have different names, got {names}")
    return list(tools)


def example(schema: Mapping[str, Any]) -> Any:
    """A value for a JSON schema, with what must be there and no more. It need not be valid for an intricate one."""
    for key in ("const", "default"):
        if key in schema:
            return schema[key]
    for key in ("enum", "examples"):
        if schema.get(key):
            return schema[key][0]
    for key in ("anyOf", "oneOf", "allOf"):
        if schema.get(key):
            return example({**{k: v for k, v in schema.items() if k != key}, **schema[key][0]})
    kind = schema.get("type", "object" if "properties" in schema else "string")
    match kind[0] if isinstance(kind, list) else kind:
        case "object":
            return {name: example(schema.get("properties", {}).get(name, {})) for name in schema.get("required", ())}
        case "array":
            return [example(schema.get("items", {}))] * schema.get("minItems", 0)
        case "integer" | "number":
            return schema.get("minimum", min(1, schema.get("maximum", 1)))
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return "a" * max(1, schema.get("minLength", 1))


def shown(value: Any) -> str:
    return repr(value)[:200]
