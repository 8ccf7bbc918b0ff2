"""The driver's view of all rollout workers: one engine that any number of coroutines may call at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rl.errors import EngineLostError, WorkerFailedError
from rl.types import Sample, SampleRequest, WeightVersion
from rl.workers.calls import translate, wait_all

POLL_S = 5.0
STICKY, STICKY_SLACK = 1.5, 8
"""A rollout stays with its engine while that has no more than 1.5 times the idlest one's requests and 8."""
REMEMBERED = 100_000
"""Rollouts whose engine is remembered."""


@dataclass
class _Worker:
    name: str
    actor: Any
    outbox: list[tuple[str, SampleRequest]] = field(default_factory=list)
    waiting: dict[str, tuple[str, asyncio.Future[Sample]]] = field(default_factory=dict)
    """The session and the future answer of each request."""
    poller: asyncio.Task[None] | None = None
    lost: bool = False
    """It died, or was silent past its deadline; nothing is sent to it any more."""


class RolloutPool:
    """Sends each request to the least loaded worker that lives.

    Requests made in unbroken turns of the event loop travel together and join the engine's batch at the same step. So
    a batch of single-turn rollouts is computed in the same composition every time, which makes runs repeatable.
    ``run`` runs a coroutine on the one event loop that all calls share.
    """

    def __init__(
        self,
        actors: Sequence[Any],
        *,
        deadline_s: float,
        run: Callable[[Coroutine[Any, Any, Any]], Any],
        name: str = "rollout worker",
    ) -> None:
        self._workers = [_Worker(f"{name} {i}", actor) for i, actor in enumerate(actors)]
        self._deadline_s = deadline_s
        self._run = run
        self._count = 0
        self._last_at: dict[str, _Worker] = {}
        """Where each rollout's last request went, the longest silent first."""

    def _living(self) -> list[_Worker]:
        """Raises ``WorkerFailedError`` if there is none."""
        living = [worker for worker in self._workers if not worker.lost]
        if not living:
            raise WorkerFailedError(f"no engine is left of {', '.join(w.name for w in self._workers)}")
        return living

    async def sample(self, request: SampleRequest) -> Sample:
        """See ``rl.protocols.Engine``. Raises ``EngineLostError`` if the worker dies at it and another lives."""
        return await self._send(self._choose(request.session), request)

    def _choose(self, session: str) -> _Worker:
        """The engine that has the rollout's prefix, unless it has much more to do than another."""
        living = self._living()
        idlest = min(living, key=lambda w: len(w.waiting))
        known = self._last_at.pop(session, idlest)
        overloaded = len(known.waiting) > STICKY * len(idlest.waiting) + STICKY_SLACK
        chosen = idlest if known.lost or overloaded else known
        if session:
            self._last_at[session] = chosen
            if len(self._last_at) > REMEMBERED:
                del self._last_at[next(iter(self._last_at))]
        return chosen

    async def _send(self, worker: _Worker, request: SampleRequest) -> Sample:
        loop = asyncio.get_running_loop()
        self._count += 1
        request_id = str(self._count)
        answer: asyncio.Future[Sample] = loop.create_future()
        worker.waiting[request_id] = (request.session, answer)
        worker.outbox.append((request_id, request))
        if len(worker.outbox) == 1:
            loop.call_soon(self._flush, worker, 1)
        try:
            return await answer
        except asyncio.CancelledError:
            if worker.waiting.pop(request_id, None) is not None:
                worker.actor.interrupt.remote([request_id])
            raise

    def _flush(self, worker: _Worker, before: int) -> None:
        """Send what waits, unless this turn of the loop added to the ``before`` that did: then look again next turn."""
        if len(worker.outbox) > before:
            asyncio.get_running_loop().call_soon(self._flush, worker, len(worker.outbox))
            return
        requests, worker.outbox = worker.outbox, []
        worker.actor.submit.remote(requests)
        if worker.poller is None or worker.poller.done():
            worker.poller = asyncio.get_running_loop().create_task(self._poll(worker))

    async def _poll(self, worker: _Worker) -> None:
        """Fetch answers until none is owed; fail everything that waits if the worker dies or falls silent."""
        heard = time.monotonic()
        try:
            while worker.waiting:
                answers = await asyncio.wait_for(
                    _awaitable(worker.actor.poll.remote(POLL_S)), timeout=self._deadline_s + POLL_S
                )
                if answers:
                    heard = time.monotonic()
                elif time.monotonic() - heard > self._deadline_s:
                    raise WorkerFailedError(
                        f"{worker.name} finished nothing for {self._deadline_s:.0f} s (rollout.deadline_s) while it "
                        f"owed {len(worker.waiting)} answers"
                    )
                for request_id, sample in answers:
                    _, answer = worker.waiting.pop(request_id, ("", None))
                    if answer is not None and not answer.done():
                        answer.set_result(sample)
        except Exception as error:  # noqa: BLE001 - whatever it was, everyone who waits must hear of it
            failure = error if isinstance(error, WorkerFailedError) else translate(worker.name, error)
            worker.lost = True
            if any(not other.lost for other in self._workers):
                failure = EngineLostError(str(failure))
            waiting, worker.waiting = worker.waiting, {}
            for _, answer in waiting.values():
                if not answer.done():
                    answer.set_exception(failure)

    async def interrupt(self, sessions: set[str]) -> None:
        """See ``rl.protocols.Engine``."""
        while any(worker.outbox for worker in self._workers):
            await asyncio.sleep(0)
        calls = []
        for worker in self._living():
            concerned = [number for number, (session, _) in worker.waiting.items() if session in sessions]
            if concerned:
                calls.append(_awaitable(worker.actor.interrupt.remote(concerned)))
        # An engine that fails at it is found out by its poller, as at any other time, and its answers then fail.
        await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), self._deadline_s)

    def load_weights(self, version: WeightVersion, handles: Sequence[Any]) -> list[tuple[str, list[str]]]:
        """See ``rl.protocols.WeightSink``. A worker that fails at it is lost; raises if none is left."""
        calls = [(w, w.actor.load_weights.remote(version, list(handles))) for w in self._living()]
        answers: list[tuple[str, list[str]]] = []
        for worker, call in calls:
            try:
                answers += wait_all({worker.name: call}, deadline_s=self._deadline_s)
            except WorkerFailedError:
                worker.lost = True
                self._living()
        return answers

    def probe(self, requests: Sequence[SampleRequest]) -> list[list[Sample]]:
        """See ``rl.protocols.WeightSink``."""

        async def ask() -> list[list[Sample]]:
            return list(
                await asyncio.gather(
                    *(asyncio.gather(*(self._send(worker, r) for r in requests)) for worker in self._living())
                )
            )

        answers: list[list[Sample]] = self._run(ask())
        return answers

    def trace(self, engine: int, token_ids: Sequence[int]) -> Mapping[str, Any]:
        """See ``rl.protocols.WeightSink``."""
        worker = self._living()[engine]
        (result,) = wait_all({worker.name: worker.actor.trace.remote(list(token_ids))}, deadline_s=self._deadline_s)
        return dict(result)


async def _awaitable(ref: Any) -> Any:
    return await asyncio.wrap_future(ref.future())
