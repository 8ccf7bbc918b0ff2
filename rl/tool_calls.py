"""Tool calls in a policy's turn: how they are written, and how they are read back.

The chat template decides the format. Known are Kimi K2's tokens, the ``<tool_call>`` tags of Hermes and Qwen, and the
starters' marks. A call's id is ``functions.<name>:<n>``, with one counter for the whole conversation.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rl.types import Message


@dataclass(frozen=True, kw_only=True)
class ToolCall:
    """One call as the policy wrote it. ``error`` says in words why it cannot be made, if it cannot."""

    id: str
    name: str
    arguments: Mapping[str, Any]
    error: str | None = None

    def as_message_part(self) -> dict[str, Any]:
        """An entry of ``tool_calls`` in a message, in the form that chat templates take."""
        part: dict[str, Any] = {
            "id": self.id,
            "type": "function",
            "function": {"name": self.name, "arguments": dict(self.arguments)},
        }
        return part if self.error is None else part | {"error": self.error}


def calls_in(message: Message) -> list[ToolCall]:
    """The calls of a message that ``read_turn`` made."""
    return [
        ToolCall(
            id=part["id"],
            name=part["function"]["name"],
            arguments=part["function"]["arguments"],
            error=part.get("error"),
        )
        for part in message.get("tool_calls") or ()
    ]


class ToolFormat(Protocol):
    """How one family of models writes calls. ``begin`` opens each."""

    @property
    def begin(self) -> str: ...

    def tag(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """A call of one tool, its arguments by their JSON schema, as a tag of an xgrammar structural tag."""
        ...

    def split(self, text: str) -> tuple[str, list[tuple[str | None, str]]]:
        """What a turn says besides its calls, and each call's name, where it stands outside the body, and body."""
        ...


@dataclass(frozen=True)
class JsonCalls:
    """``{"name": …, "arguments": {…}}`` between two marks. A mark that is not closed counts to the end of the turn."""

    begin: str
    end: str

    def tag(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        schema = {
            "type": "object",
            "properties": {"name": {"const": name}, "arguments": arguments},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        return {"begin": self.begin, "content": {"type": "json_schema", "json_schema": schema}, "end": self.end}

    def split(self, text: str) -> tuple[str, list[tuple[str | None, str]]]:
        begin, end = re.escape(self.begin), re.escape(self.end)
        call = re.compile(rf"{begin}(.*?)(?:{end}|(?={begin})|\Z)", re.DOTALL)
        return call.sub("", text).strip(), [(None, body) for body in call.findall(text)]


@dataclass(frozen=True)
class K2Calls:
    """Kimi K2's shipped tokens: a section of calls, each an id, ``functions.<name>:<n>``, and JSON arguments."""

    begin: str = "<|tool_call_begin|>"

    def tag(self, name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        parts = [
            {"type": "regex", "pattern": "[0-9]+"},
            {"type": "const_string", "value": "<|tool_call_argument_begin|>"},
            {"type": "json_schema", "json_schema": arguments},
        ]
        return {
            "begin": f"{self.begin}functions.{name}:",
            "content": {"type": "sequence", "elements": parts},
            "end": "<|tool_call_end|>",
        }

    def split(self, text: str) -> tuple[str, list[tuple[str | None, str]]]:
        content, _, section = text.partition("<|tool_calls_section_begin|>")
        section = section.partition("<|tool_calls_section_end|>")[0]
        found = []
        for piece in section.split("<|tool_call_begin|>")[1:]:
            call = piece.partition("<|tool_call_end|>")[0]
            head, _, body = call.partition("<|tool_call_argument_begin|>")
            name = re.fullmatch(r"(?:functions\.)?(.*?)(?::\d+)?", head.strip(), re.DOTALL)
            found.append((name[1] if name else head.strip(), body))
        return content.strip(), found


HERMES = JsonCalls("<tool_call>", "</tool_call>")
STARTER = JsonCalls("<|call|>", "<|/call|>")
K2 = K2Calls()
_MARKS: tuple[tuple[str, ToolFormat], ...] = (
    ("<|tool_call_begin|>", K2),
    (HERMES.begin, HERMES),
    (STARTER.begin, STARTER),
)


def format_of(template: str) -> ToolFormat | None:
    """The format that a chat template writes calls in; None if it writes none that is known."""
    return next((known for mark, known in _MARKS if mark in template), None)


def read_turn(text: str, form: ToolFormat | None, *, number: int) -> Message:
    """A policy turn's text, special tokens included, as a message. ``number`` is the first call's in the conversation.

    A call that makes no sense stays in the message, with an ``error`` for the environment to answer with.
    """
    content, bodies = (text, []) if form is None else form.split(text)
    message: dict[str, Any] = {"role": "assistant", "content": content}
    if bodies:
        calls = [_read_call(name, body, number + i) for i, (name, body) in enumerate(bodies)]
        message["tool_calls"] = [call.as_message_part() for call in calls]
    return message


def _read_call(name: str | None, body: str, number: int) -> ToolCall:
    error = None
    arguments: Any = {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as problem:
        error = f"the call is not valid JSON: {problem}"
    else:
        if name is not None:
            arguments = value
        elif isinstance(value, dict) and isinstance(value.get("name"), str):
            name, arguments = value["name"], value.get("arguments", {})
        else:
            error = 'the call must be {"name": …, "arguments": {…}}'
    if error is None and not isinstance(arguments, dict):
        arguments, error = {}, "the arguments must be a JSON object"
    name = name or "unknown"
    return ToolCall(id=f"functions.{name}:{number}", name=name, arguments=arguments, error=error)


def declaration(name: str, description: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as chat templates and environments declare it; ``parameters`` is the JSON schema of its arguments."""
    return {
        "type": "function",
        "function": {"name": name, "description": description, "parameters": dict(parameters)},
    }


def count_calls(messages: Iterable[Message]) -> int:
    """How many calls a conversation holds so far."""
    return sum(len(message.get("tool_calls") or ()) for message in messages)


def result(call: ToolCall, content: str) -> Message:
    """The tool's message that answers a call."""
    return {"role": "tool", "tool_call_id": call.id, "name": call.name, "content": content}


Declarations = Sequence[Mapping[str, Any]]
"""The tools that a conversation offers."""


def structure(form: ToolFormat, tools: Declarations) -> str:
    """Turns in which every call is one of these tools with arguments that fit its schema, and all else is free.

    For constrained decoding: a structural tag of xgrammar, as JSON.
    """
    tags = [form.tag(tool["function"]["name"], tool["function"]["parameters"]) for tool in tools]
    calls = {"type": "triggered_tags", "triggers": [form.begin], "tags": tags}
    return json.dumps({"type": "structural_tag", "format": calls})
