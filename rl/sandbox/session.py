"""A sandbox that lives for a whole rollout: Python that remembers, a shell and files, all behind one socket.

Every request has a deadline. What misses it is killed, and the next request meets a fresh sandbox.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rl.errors import ToolMissingError
from rl.sandbox import isolation
from rl.sandbox.base import Limits
from rl.sandbox.guest import wire
from rl.sandbox.runner import START_S, start_guest


class SessionLostError(Exception):
    """The sandbox was killed, or died, at a request; what it remembered is gone. The text says why."""


class Session:
    """One sandbox, started at the first request.

    Args:
        limits: ``wall_s`` is for one request; ``cpu_s`` for the life of the sandbox.
        allow_unsandboxed: run with nothing but resource limits where bubblewrap does not work.
        packages: folders of Python packages that programs may import besides the standard library.

    Raises ``ToolMissingError`` if programs cannot be isolated and that was not allowed.

    """

    def __init__(self, limits: Limits, *, allow_unsandboxed: bool = False, packages: Sequence[str] = ()) -> None:
        reason = isolation.problem()
        if reason is not None and not allow_unsandboxed:
            raise ToolMissingError(reason)
        self._limits = limits
        self._packages = [str(path) for path in packages]
        self._isolated = reason is None
        self._turn = asyncio.Lock()
        self._process: Any = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, operation: str, **arguments: Any) -> dict[str, Any]:
        """The guest's answer (``rl/sandbox/guest/session.py``), one request after the other.

        Raises ``SessionLostError``.
        """
        async with self._turn:
            return await self._ask(operation, arguments)

    async def _ask(self, operation: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if self._writer is None:
            await self._start()
        try:
            return await asyncio.wait_for(self._exchange({"do": operation, **arguments}), self._limits.wall_s)
        except TimeoutError:
            await self.close()
            raise SessionLostError(f"it took more than {self._limits.wall_s:g} s and was ended") from None
        except (OSError, EOFError, ValueError) as error:
            await self.close()
            raise SessionLostError("it died: too much memory or time, or it ended itself") from error

    async def _start(self) -> None:
        near, far = socket.socketpair()
        arguments = ["session.py", str(far.fileno())]
        with far:
            self._process = start_guest(
                arguments, far, isolated=self._isolated, disk_mib=self._limits.disk_mib, paths=self._packages
            )
        self._reader, self._writer = await asyncio.open_connection(sock=near)
        try:
            await asyncio.wait_for(self._exchange(asdict(self._limits) | {"paths": self._packages}), START_S)
        except (OSError, EOFError, ValueError, TimeoutError) as error:
            await self.close()
            raise ToolMissingError(f"a sandbox did not start: {error!r}") from error

    async def _exchange(self, message: Mapping[str, Any]) -> dict[str, Any]:
        assert self._reader is not None
        assert self._writer is not None
        buffer = _Buffer()
        wire.send(buffer, message)
        self._writer.write(buffer.data)
        await self._writer.drain()
        try:
            head = await self._reader.readexactly(wire.HEAD)
            size = int.from_bytes(head, "big")
            if size > wire.LARGEST:
                raise ValueError("message too large")
            body = await self._reader.readexactly(size)
        except asyncio.IncompleteReadError as error:
            raise EOFError from error
        answer: dict[str, Any] = wire.receive(_Buffer(head + body))
        return answer

    async def close(self) -> None:
        """End the sandbox and everything in it."""
        if self._writer is not None:
            self._writer.close()
            self._reader = self._writer = None
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            await asyncio.to_thread(process.wait)


class _Buffer:
    """Bytes in the place of a socket."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data

    def sendall(self, data: bytes) -> None:
        self.data += data

    def recv(self, size: int) -> bytes:
        part, self.data = self.data[:size], self.data[size:]
        return part
