"""A Python interpreter as a tool: it remembers what earlier calls defined, and runs in a sandbox."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from envs.tools import ToolError
from rl.sandbox.base import Limits
from rl.sandbox.session import Session, SessionLostError
from rl.tool_calls import declaration
from rl.types import Task


class Python:
    """Runs code and returns what it prints, the value of a last expression, and the traceback if it raises.

    Args:
        allow_unsandboxed: accept running programs without isolation where bubblewrap does not work.
        packages: folders of Python packages that programs may import besides the standard library.
        limits: settings of ``rl.sandbox.base.Limits``; ``wall_s`` is for one call.

    """

    declaration = declaration(
        "python",
        "Runs Python code and returns what it prints.",
        {"type": "object", "properties": {"code": {"type": "string"}}, "required": ["code"]},
    )

    def __init__(
        self,
        *,
        allow_unsandboxed: bool = False,
        packages: Sequence[str] = (),
        limits: Mapping[str, Any] | None = None,
    ) -> None:
        self._session = Session(Limits(**(limits or {})), allow_unsandboxed=allow_unsandboxed, packages=packages)

    async def open(self, task: Task) -> None:
        pass  # the sandbox starts at the first call: most rollouts make none

    async def call(self, arguments: Mapping[str, Any]) -> str:
        try:
            answer = await self._session.ask("python", code=arguments["code"])
        except SessionLostError as error:
            raise ToolError(f"{error}; the interpreter starts anew and remembers nothing") from error
        return str(answer.get("output", "")).rstrip("\n") or "(no output)"

    async def close(self) -> None:
        await self._session.close()
