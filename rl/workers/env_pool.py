"""The driver's view of all env services: environments that are somewhere else, and outlive none of their service."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from envs.base import Opening, Step
from rl.errors import EnvLostError
from rl.types import Message, Task
from rl.workers.calls import translate
from rl.workers.env_service import EnvAnswer, EnvCall

POLL_S = 1.0
SILENT_S = 30.0
"""An actor that answers no poll for so long is taken for dead."""


@dataclass(eq=False)
class _Service:
    name: str
    actor: Any
    outbox: list[EnvCall] = field(default_factory=list)
    waiting: dict[int, tuple[str, asyncio.Future[EnvAnswer]]] = field(default_factory=dict)
    """The environment's key and the future answer of each call."""
    hosted: int = 0
    poller: asyncio.Task[None] | None = None
    lost: str | None = None
    """Why it can be used no more."""


class EnvPool:
    """Places each new environment on the service that hosts the fewest, and replaces services that are lost.

    A service is lost when its process dies, or when one environment blocks its event loop for ``blocked_s`` seconds:
    that environment's call then fails, and all others of the service are lost with it.
    """

    def __init__(self, start: Callable[[], Any], *, count: int, blocked_s: float) -> None:
        self._start = start
        self._blocked_s = blocked_s
        self._numbers = itertools.count()
        self._keys = itertools.count()
        self._services = [_Service(f"env service {i}", start()) for i in range(count)]
        self._replaced = 0

    @property
    def actors(self) -> dict[str, Any]:
        """The services' actors by name."""
        return {service.name: service.actor for service in self._services}

    def make(self, kind: str) -> RemoteEnv:
        """A new environment of a configured kind."""
        return RemoteEnv(self, kind, key=str(next(self._keys)))

    def metrics(self) -> dict[str, float]:
        """Counts since the last call."""
        replaced, self._replaced = self._replaced, 0
        return {"fault/env_service": float(replaced)}

    def place(self) -> _Service:
        """The service for a new environment."""
        return min(self._services, key=lambda service: service.hosted)

    async def call(self, service: _Service, key: str, kind: str, method: str, *arguments: Any) -> Any:
        """Have an environment do something. Raises ``EnvLostError``, or ``RuntimeError`` with what it raised."""
        if service.lost is not None:
            raise EnvLostError(service.lost)
        call = EnvCall(number=next(self._numbers), key=key, kind=kind, method=method, arguments=arguments)
        answer: asyncio.Future[EnvAnswer] = asyncio.get_running_loop().create_future()
        service.waiting[call.number] = (key, answer)
        service.outbox.append(call)
        if len(service.outbox) == 1:
            asyncio.get_running_loop().call_soon(self._flush, service)
        try:
            result = await answer
        finally:
            if service.waiting.pop(call.number, None) is not None and service.lost is None:
                service.actor.cancel.remote([call.number])
        if result.error is not None:
            raise RuntimeError(result.error)
        return result.value

    def _flush(self, service: _Service) -> None:
        calls, service.outbox = service.outbox, []
        if service.lost is not None:
            return
        service.actor.submit.remote(calls)
        if service.poller is None or service.poller.done():
            service.poller = asyncio.get_running_loop().create_task(self._poll(service))

    async def _poll(self, service: _Service) -> None:
        """Fetch answers until none is owed."""
        while service.waiting:
            try:
                ref = service.actor.poll.remote(POLL_S)
                answers, blocked = await asyncio.wait_for(asyncio.wrap_future(ref.future()), POLL_S + SILENT_S)
            except Exception as error:  # noqa: BLE001 - whatever it was, everyone who waits must hear of it
                self._lose(service, str(translate(service.name, error)))
                return
            for answer in answers:
                _, future = service.waiting.pop(answer.number, ("", None))
                if future is not None and not future.done():
                    future.set_result(answer)
            if blocked is not None and blocked[1] >= self._blocked_s:
                self._lose(service, f"an environment blocked {service.name} for {blocked[1]:.1f} s", guilty=blocked[0])
                return

    def _lose(self, service: _Service, reason: str, guilty: str | None = None) -> None:
        """Fail what a service owes, the call of the ``guilty`` environment for good, and start another in its place."""
        import ray

        service.lost = reason
        self._replaced += 1
        waiting, service.waiting = service.waiting, {}
        for key, future in waiting.values():
            if not future.done():
                future.set_exception(RuntimeError(reason) if key == guilty else EnvLostError(reason))
        ray.kill(service.actor)
        self._services[self._services.index(service)] = _Service(service.name, self._start())


class RemoteEnv:
    """One environment on an env service; see ``envs.base.Env`` and ``Asking``."""

    def __init__(self, pool: EnvPool, kind: str, *, key: str) -> None:
        self._pool = pool
        self._kind = kind
        self._key = key
        self._service: _Service | None = None

    async def reset(self, task: Task) -> Opening:
        self._service = self._pool.place()
        self._service.hosted += 1
        opening: Opening = await self._call("reset", task)
        return opening

    async def step(self, message: Message) -> Step:
        step: Step = await self._call("step", message)
        return step

    async def hear(self, text: str) -> Step:
        step: Step = await self._call("hear", text)
        return step

    async def close(self) -> None:
        service, self._service = self._service, None
        if service is None:
            return
        service.hosted -= 1
        if service.lost is None:
            await self._pool.call(service, self._key, self._kind, "close")

    async def _call(self, method: str, argument: Any) -> Any:
        assert self._service is not None, "reset comes first"
        return await self._pool.call(self._service, self._key, self._kind, method, argument)
