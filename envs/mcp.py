"""The tools of an MCP server (Model Context Protocol) as an environment: a server process or session per rollout."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import anyio
import mcp_types as types
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client import Transport

from envs.base import Opening, Step
from envs.tools import Toolbox, ToolEnv, ToolError
from rl.tool_calls import declaration
from rl.types import Message, Task

QUOTED_BYTES = 500
"""Of what a server that failed wrote to its standard error, from the end."""


class McpTool:
    """One tool of a server. A ``ToolError`` is what the server says is wrong with a call."""

    def __init__(self, client: Client, tool: types.Tool) -> None:
        self.declaration: Mapping[str, Any] = declaration(tool.name, tool.description or "", tool.input_schema)
        self._client = client
        self._name = tool.name

    async def open(self, task: Task) -> None:
        pass

    async def call(self, arguments: Mapping[str, Any]) -> str:
        try:
            answer = await self._client.call_tool(self._name, dict(arguments))
        except MCPError as error:
            if error.code in (types.CONNECTION_CLOSED, types.REQUEST_TIMEOUT):
                raise
            raise ToolError(error.message) from error
        text = "\n".join(map(_text, answer.content))
        if answer.is_error:
            raise ToolError(text)
        return text

    async def close(self) -> None:
        pass


def _text(part: types.ContentBlock) -> str:
    return part.text if isinstance(part, types.TextContent) else f"[{part.type}]"


class McpEnv(ToolEnv):
    """Offers the tools that an MCP server lists, until the policy takes a turn without calling any.

    A server that dies, does not start in time or does not answer within ``rollout.env_deadline_s`` is a fault.

    Args:
        command: program of a server that speaks through its standard input and output; each rollout starts one.
        args: its arguments; those in ``task.fields["mcp"]``, a list of texts, come after them.
        env: its environment variables, besides the few (``PATH``, ``HOME`` …) that it gets anyway.
        url: address of a running server instead, which speaks streamable HTTP.
        turns: most policy turns.
        output_chars: most characters of one tool's output; the middle of longer ones is left out.
        start_deadline_s: longest time until the server has listed its tools.

    """

    def __init__(
        self,
        *,
        command: str | None = None,
        args: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        url: str | None = None,
        turns: int = 8,
        output_chars: int = 4000,
        start_deadline_s: float = 30.0,
    ) -> None:
        if (command is None) == (url is None) or (url is not None and (args or env)):
            raise ValueError(
                "either command, with args and env, or url alone must be set, got "
                f"command={command}, args={list(args)}, env={env}, url={url}"
            )
        if start_deadline_s <= 0:
            raise ValueError(f"start_deadline_s must be positive, got {start_deadline_s}")
        super().__init__(tools=(), turns=turns, output_chars=output_chars)
        self._command, self._args, self._env, self._url = command, list(args), dict(env or {}), url
        self._output_chars = output_chars
        self._deadline_s = start_deadline_s
        self._leave = asyncio.Event()
        self._owner: asyncio.Task[None] | None = None

    async def reset(self, task: Task) -> Opening:
        more = task.fields.get("mcp", ())
        if self._url is not None and more:
            raise ValueError(f"task {task.id}: fields.mcp must be empty for a server with a url, got {more}")
        self._ready: asyncio.Future[list[McpTool]] = asyncio.get_running_loop().create_future()
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by close
        self._starting = anyio.CancelScope()
        self._owner = asyncio.create_task(self._own([*self._args, *more]))
        try:
            tools = await asyncio.wait_for(self._ready, self._deadline_s)
        except TimeoutError as error:
            raise self._failure(f"did not list its tools within {self._deadline_s:g} s") from error
        self._toolbox = Toolbox(tools, output_chars=self._output_chars)
        return await super().reset(task)

    async def _own(self, args: Sequence[str]) -> None:
        """Hold the session from start to end: the SDK wants one task to enter and leave it."""
        with self._starting:
            try:
                async with Client(self._url or self._program(args)) as client:
                    tools = await _tools(client)
                    if not self._ready.done():
                        self._ready.set_result(tools)
                    await self._leave.wait()
            except Exception as error:
                if self._ready.done():
                    raise self._failure(f"failed: {error!r}") from error
                self._ready.set_exception(self._failure(f"did not start: {error!r}"))

    def _program(self, args: Sequence[str]) -> Transport:
        assert self._command is not None
        parameters = StdioServerParameters(command=self._command, args=list(args), env=self._env)
        return stdio_client(parameters, errlog=self._log)

    def _failure(self, what: str) -> ConnectionError:
        size = os.fstat(self._log.fileno()).st_size
        # The server writes where this file stands, so it is read without moving it.
        end = os.pread(self._log.fileno(), QUOTED_BYTES, max(0, size - QUOTED_BYTES)).decode(errors="replace").strip()
        return ConnectionError(f"the MCP server {what}" + (f"; it wrote: {end}" if end else ""))

    async def step(self, message: Message) -> Step:
        try:
            return await super().step(message)
        except MCPError as error:
            raise self._failure(f"failed: {error.message}") from error

    async def close(self) -> None:
        if self._owner is None:
            return
        self._leave.set()
        if self._ready.cancelled():
            self._starting.cancel()
        await asyncio.wait([self._owner])
        self._log.close()
        self._owner.result()


async def _tools(client: Client) -> list[McpTool]:
    page = await client.list_tools()
    tools = list(page.tools)
    while page.next_cursor is not None:
        page = await client.list_tools(cursor=page.next_cursor)
        tools += page.tools
    return [McpTool(client, tool) for tool in tools]
