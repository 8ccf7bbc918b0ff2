"""An env service: the environments of many rollouts in one Ray actor, on an event loop in a thread of its own.

The actor answers while that loop is blocked, and can then say which environment blocks it.
"""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from envs.base import Env
from rl.plugins import build

BEAT_S = 0.1


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvCall:
    """One call to one environment. ``key`` names the environment, ``kind`` its class, ``number`` the call."""

    number: int
    key: str
    kind: str
    method: str
    arguments: tuple[Any, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvAnswer:
    """What a call returned, or in words what it raised."""

    number: int
    value: Any = None
    error: str | None = None


class EnvService:
    """The actor. ``specs`` are the environments of the configuration, by name."""

    def __init__(self, specs: Mapping[str, Mapping[str, Any]], path: Sequence[str]) -> None:
        sys.path += [folder for folder in path if folder not in sys.path]
        self._makers = {name: build(spec, name=f"env.{name}", partial=True) for name, spec in specs.items()}
        self._envs: dict[str, Env] = {}
        self._running: dict[int, asyncio.Task[None]] = {}
        self._answers: list[EnvAnswer] = []
        self._news = threading.Condition()
        self._beat_at = time.monotonic()
        self._loop = asyncio.new_event_loop()
        self._loop.call_soon(self._beat)
        threading.Thread(target=self._loop.run_forever, daemon=True, name="environments").start()

    def ready(self) -> int:
        """Process id; returns once the service has started."""
        return os.getpid()

    def submit(self, calls: Sequence[EnvCall]) -> None:
        """Begin these calls."""
        self._loop.call_soon_threadsafe(self._begin, calls)

    def cancel(self, numbers: Sequence[int]) -> None:
        """Nobody waits for these calls any more."""
        self._loop.call_soon_threadsafe(self._cancel, numbers)

    def poll(self, timeout_s: float) -> tuple[list[EnvAnswer], tuple[str, float] | None]:
        """Answers since the last poll, after up to ``timeout_s`` for the first.

        With them, if the event loop is blocked: the key of the environment that blocks it, and for how many seconds.
        """
        with self._news:
            self._news.wait_for(lambda: self._answers, timeout=timeout_s)
            answers, self._answers = self._answers, []
        silent_s = time.monotonic() - self._beat_at
        if silent_s < 10 * BEAT_S:
            return answers, None
        blocking = asyncio.current_task(self._loop)
        return answers, None if blocking is None else (blocking.get_name(), silent_s)

    def _beat(self) -> None:
        self._beat_at = time.monotonic()
        self._loop.call_later(BEAT_S, self._beat)

    def _begin(self, calls: Sequence[EnvCall]) -> None:
        for call in calls:
            self._running[call.number] = self._loop.create_task(self._do(call), name=call.key)

    def _cancel(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            if number in self._running:
                self._running[number].cancel()

    async def _do(self, call: EnvCall) -> None:
        try:
            if call.method == "reset":
                self._envs[call.key] = self._makers[call.kind]()
            env = self._envs.get(call.key)
            if env is None and call.method == "close":
                value = None  # it could not even be made
            else:
                value = await getattr(env, call.method)(*call.arguments)
            answer = EnvAnswer(number=call.number, value=value)
        except Exception as error:  # noqa: BLE001 - environments are plugins: their faults are data
            answer = EnvAnswer(number=call.number, error=repr(error))
        finally:
            del self._running[call.number]
            if call.method == "close":
                self._envs.pop(call.key, None)
        with self._news:
            self._answers.append(answer)
            self._news.notify_all()
