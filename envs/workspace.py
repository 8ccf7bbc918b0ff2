"""A repository to work on, with a shell and files in one sandbox. What the policy changed is the outcome.

The tests that decide are never in that sandbox: ``rewards.workspace`` runs them on the outcome, somewhere else.
"""

from __future__ import annotations

import asyncio
import difflib
import posixpath
import re
import shlex
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from envs.base import Opening, Step
from envs.tools import Toolbox, ToolEnv, ToolError
from rl.sandbox.base import Limits
from rl.sandbox.session import Session, SessionLostError
from rl.tool_calls import declaration
from rl.types import Message, Task

ROOT = "/tmp/repo"  # noqa: S108 - the sandbox's own
LIMITS = {"processes": 32}
"""Settings of ``rl.sandbox.base.Limits`` that a shell needs otherwise than a program does."""
CHANGED_CHARS = 2**18
"""Most characters of changed files and their names together."""
PATCH_LINES = 2000
"""Most lines, old and new, that a patch is made from: comparing takes time that grows with their square."""
_RAN = re.compile(r"^(Ran \d+ tests? in) \d+\.\d+s$", re.MULTILINE)


class Checkout:
    """A repository in a sandbox of its own, which starts at the first request.

    Raises ``ToolMissingError`` if there is no working sandbox.
    """

    def __init__(self, limits: Limits) -> None:
        self.files: Mapping[str, str] = {}
        """The snapshot, path to text. Set before the first request."""
        self._session = Session(limits)
        self._written = False
        self._turn = asyncio.Lock()
        # The session would end the whole sandbox at its deadline, and the policy's work with it.
        self._seconds = 0.8 * limits.wall_s

    async def shell(self, arguments: Mapping[str, Any]) -> str:
        # Replies must depend on nothing but the turns, so sets have one order and test runs no duration.
        command = f"PYTHONHASHSEED=0 timeout -k 1 {self._seconds:g} /bin/sh -c {shlex.quote(arguments['command'])}"
        async with self._turn:
            answer = await self._ask("shell", command=command, cwd=ROOT)
        said = [_RAN.sub(r"\1 0.000s", str(answer.get("output", ""))).rstrip("\n")]
        status = answer.get("status")
        if status in (124, 137):
            said.append(f"[ended after {self._seconds:g} s]")
        elif status != 0:
            said.append(f"[exit status {status}]")
        return "\n".join(filter(None, said)) or "(no output)"

    async def read_file(self, arguments: Mapping[str, Any]) -> str:
        async with self._turn:
            lines = (await self._text(arguments["path"])).splitlines(keepends=True)
        first, last = arguments.get("first_line", 1), arguments.get("last_line", len(lines))
        if lines and not first <= min(last, len(lines)):
            raise ToolError(f"{arguments['path']} has lines 1 to {len(lines)}, asked for {first} to {last}")
        return "".join(lines[first - 1 : last]) or "(empty)"

    async def write_file(self, arguments: Mapping[str, Any]) -> str:
        async with self._turn:
            await self._write(arguments["path"], arguments["text"])
        return f"wrote {arguments['path']}"

    async def replace(self, arguments: Mapping[str, Any]) -> str:
        path, old = arguments["path"], arguments["old"]
        async with self._turn:
            text = await self._text(path)
            count = text.count(old)
            if count != 1:
                raise ToolError(f"old must be in {path} exactly once, and is {count} times")
            await self._write(path, text.replace(old, arguments["new"]))
        return f"changed {path}"

    async def changes(self) -> dict[str, str | None]:
        """What is otherwise than in the snapshot: the new text of files, None for those that are gone.

        Raises ``ToolError`` if it is too much, and ``SessionLostError`` if the sandbox is gone.
        """
        async with self._turn:
            if not self._written:
                return {}
            answer = await self._session.ask("read", folder=ROOT)
        if "files" not in answer:
            raise ToolError(str(answer.get("error")))
        now = {path: text for path, text in answer["files"].items() if _is_text(path) and _is_text(text)}
        changed = {path: text for path, text in now.items() if text != self.files.get(path)}
        size = sum(len(path) + len(text) for path, text in changed.items())
        if size > CHANGED_CHARS:
            raise ToolError(f"changed files must have at most {CHANGED_CHARS} characters together, got {size}")
        return changed | dict.fromkeys(self.files.keys() - now.keys())

    async def close(self) -> None:
        await self._session.close()

    async def _text(self, path: str) -> str:
        return str((await self._ask("text", path=posixpath.join(ROOT, path))).get("text", ""))

    async def _write(self, path: str, text: str) -> None:
        await self._ask("write", files={posixpath.join(ROOT, path): text})

    async def _ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """Raises ``ToolError`` for what cannot be done, and if the sandbox is lost."""
        try:
            if not self._written:
                await self._begin()
            answer = await self._session.ask(operation, **arguments)
        except SessionLostError as error:
            self._written = False
            raise ToolError(f"{error}; all files are again what they were at the beginning") from error
        if "error" in answer:
            raise ToolError(str(answer["error"]))
        return answer

    async def _begin(self) -> None:
        answer = await self._session.ask("write", files={f"{ROOT}/{path}": text for path, text in self.files.items()})
        if "error" in answer:
            raise ValueError(f"files must fit into the sandbox (limits.disk_mib): {answer['error']}")
        self._written = True


def _is_text(value: object) -> bool:
    """Whether it is text that can be stored; a file's name may be bytes of any sort."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def patch(before: Mapping[str, str], changed: Mapping[str, str | None]) -> str:
    """A unified diff for people to read."""
    parts, left = [], PATCH_LINES
    for path in sorted(changed):
        old, new = before.get(path, "").splitlines(), (changed[path] or "").splitlines()
        left -= len(old) + len(new)
        if left < 0:
            parts.append(f"(too long to show: {path})")
        else:
            to = "/dev/null" if changed[path] is None else f"b/{path}"
            parts += difflib.unified_diff(old, new, f"a/{path}" if path in before else "/dev/null", to, lineterm="")
    return "\n".join(parts)


@dataclass
class Action:
    """One tool of a checkout, which the environment opens and closes."""

    declaration: Mapping[str, Any]
    run: Callable[[Mapping[str, Any]], Awaitable[str]]

    async def open(self, task: Task) -> None:
        pass

    async def call(self, arguments: Mapping[str, Any]) -> str:
        return await self.run(arguments)

    async def close(self) -> None:
        pass


def _declare(name: str, description: str, *texts: str, **others: Any) -> dict[str, Any]:
    """A tool with required arguments that are texts, and others that may be left out."""
    properties = {name: {"type": "string"} for name in texts} | others
    return declaration(name, description, {"type": "object", "properties": properties, "required": list(texts)})


_LINE = {"type": "integer", "minimum": 1}


def _tools(checkout: Checkout) -> list[Action]:
    return [
        Action(_declare("shell", "Runs a command in the repository.", "command"), checkout.shell),
        Action(
            _declare("read_file", "Shows a file, or some of its lines.", "path", first_line=_LINE, last_line=_LINE),
            checkout.read_file,
        ),
        Action(_declare("write_file", "Writes a file.", "path", "text"), checkout.write_file),
        Action(
            _declare("replace", "Replaces a text that is in a file exactly once.", "path", "old", "new"),
            checkout.replace,
        ),
    ]


class Workspace(ToolEnv):
    """Offers a shell and files of the repository ``task.fields["files"]`` (path to text).

    It ends with a turn without calls, or with ``turn_limit``. The outcome has ``files``, the new text of every file
    that changed, None for a deleted one, and ``patch``, the same as a unified diff. If the policy wrote too much,
    ``files`` is empty and ``problem`` says so; a sandbox that died before it could be read is a fault.

    Args:
        turns: most policy turns.
        output_chars: most characters of one tool's output; the middle of longer ones is left out.
        limits: settings of ``rl.sandbox.base.Limits``; ``wall_s`` is for one request, of which a command gets 80 %.

    Raises ``ToolMissingError`` if there is no working sandbox.

    """

    def __init__(self, *, turns: int = 30, output_chars: int = 4000, limits: Mapping[str, Any] | None = None) -> None:
        super().__init__(tools=(), turns=turns, output_chars=output_chars)
        self._checkout = Checkout(Limits(**{**LIMITS, **(limits or {})}))
        self._toolbox = Toolbox(_tools(self._checkout), output_chars=output_chars)

    async def reset(self, task: Task) -> Opening:
        files = task.fields.get("files")
        if not files or not isinstance(files, Mapping) or not all(isinstance(text, str) for text in files.values()):
            raise ValueError(f"task {task.id}: files must map at least one path to a text, got {str(files)[:60]}")
        self._checkout.files = files
        return await super().reset(task)

    async def step(self, message: Message) -> Step:
        step = await super().step(message)
        return step if step.end is None else replace(step, outcome=await self._outcome())

    async def _outcome(self) -> dict[str, Any]:
        try:
            changed = await self._checkout.changes()
        except ToolError as error:
            return {"files": {}, "patch": "", "problem": str(error)}
        return {"files": changed, "patch": await asyncio.to_thread(patch, self._checkout.files, changed)}

    async def close(self) -> None:
        await self._checkout.close()
