"""Tools: what the policy may call, how calls are checked and answered, and the environment that offers them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError, best_match

from envs.base import Opening, Step
from rl.plugins import build
from rl.tool_calls import ToolCall, calls_in, result
from rl.types import EndReason, Message, Task

CUT = "\n[...]\n"
"""Stands for what was left out of an output that is too long."""


class ToolError(Exception):
    """A call could not be carried out as asked; the text tells the policy why. Not a fault of the environment."""


class Tool(Protocol):
    """One tool of one rollout. ``declaration`` is its JSON schema, as ``rl.tool_calls.declaration`` makes it."""

    declaration: Mapping[str, Any]

    async def open(self, task: Task) -> None:
        """Get ready for a rollout of this task."""
        ...

    async def call(self, arguments: Mapping[str, Any]) -> str:
        """The result, as text. Raises ``ToolError`` for what the policy should hear; else the rollout has a fault."""
        ...

    async def close(self) -> None: ...


class Toolbox:
    """Several tools: checks calls against their schemas and answers them, those of one turn at the same time."""

    def __init__(self, tools: Sequence[Tool], *, output_chars: int = 4000) -> None:
        self.declarations = [tool.declaration for tool in tools]
        self._tools = {str(tool.declaration["function"]["name"]): tool for tool in tools}
        if len(self._tools) != len(tools):
            names = [declared["function"]["name"] for declared in self.declarations]
            raise ValueError(f"tools must have different names, got {names}")
        self._validators = {name: _validator(name, tool.declaration) for name, tool in self._tools.items()}
        self._output_chars = output_chars

    async def open(self, task: Task) -> None:
        await asyncio.gather(*(tool.open(task) for tool in self._tools.values()))

    async def answer(self, message: Message) -> list[Message]:
        """One tool message per call, in order. A call that makes no sense is answered with what is wrong about it."""
        calls = calls_in(message)
        outputs = await asyncio.gather(*(self._output(call) for call in calls))
        return [result(call, output) for call, output in zip(calls, outputs, strict=True)]

    async def _output(self, call: ToolCall) -> str:
        problem = call.error or self._problem(call)
        if problem is not None:
            return f"error: {problem}"
        try:
            output = await self._tools[call.name].call(call.arguments)
        except ToolError as error:
            output = f"error: {error}"
        return shortened(output, self._output_chars)

    def _problem(self, call: ToolCall) -> str | None:
        if call.name not in self._tools:
            return f"there is no tool {call.name}; there are {', '.join(sorted(self._tools))}"
        found = best_match(self._validators[call.name].iter_errors(dict(call.arguments)))
        return None if found is None else f"{call.name}: {found.message}"

    async def close(self) -> None:
        await asyncio.gather(*(tool.close() for tool in self._tools.values()))


def _validator(name: str, tool: Mapping[str, Any]) -> Draft202012Validator:
    schema = tool["function"]["parameters"]
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"tool {name}: parameters must be a JSON schema, got {schema}: {error.message}") from error
    return Draft202012Validator(schema)


def shortened(text: str, limit: int) -> str:
    """At most ``limit`` characters of a text, half from its start and half from its end, with a mark for the gap."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return text[:half] + CUT + text[len(text) - half :]


class ToolEnv:
    """Offers tools until the policy takes a turn without calling any, which is its answer.

    Args:
        tools: mappings with ``_target_``, each for a ``Tool``.
        turns: most policy turns; one that calls tools when none is left ends the rollout with ``turn_limit``.
        output_chars: most characters of one tool's output; the middle of longer ones is left out.

    """

    def __init__(self, *, tools: Sequence[Mapping[str, Any]], turns: int = 8, output_chars: int = 4000) -> None:
        if turns < 1 or output_chars < 1:
            raise ValueError(f"turns and output_chars must be at least 1, got {turns}, {output_chars}")
        made = [build(spec, name=f"tools.{number}") for number, spec in enumerate(tools)]
        self._toolbox = Toolbox(made, output_chars=output_chars)
        self._turns_left = turns

    async def reset(self, task: Task) -> Opening:
        await self._toolbox.open(task)
        return Opening(messages=task.messages, tools=self._toolbox.declarations)

    async def step(self, message: Message) -> Step:
        self._turns_left -= 1
        if not message.get("tool_calls"):
            return Step(end=EndReason.STOP)
        if not self._turns_left:
            return Step(end=EndReason.TURN_LIMIT)
        return Step(messages=await self._toolbox.answer(message))

    async def close(self) -> None:
        await self._toolbox.close()
