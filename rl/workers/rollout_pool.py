"""The driver's view of all rollout workers: one engine that any number of coroutines may call at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ray

from rl.errors import EngineLostError, WorkerFailedError
from rl.types import Sample, SampleRequest
from rl.workers.calls import translate, wait_all

POLL_S = 5.0
STICKY, STICKY_SLACK = 1.5, 8
"""A rollout stays with its engine while that has no more than 1.5 times the idlest one's requests and 8."""
REMEMBERED = 100_000
"""Rollouts whose engine is remembered."""
SENDINGS = 3
"""Engines that a request may be sent to: one that kills them all must not kill the run."""
REPLACEMENTS = 3
"""Engines in a row that may be lost in one place without having answered anything."""
LOOK_S = 0.2
"""Between two looks at whether a new engine has started."""


@dataclass(eq=False)
class EngineHandle:
    """One rollout worker, in the place with this number."""

    number: int
    name: str
    actor: Any
    ready: Any = None
    """The call that completes once the engine has started; None for one that had when the pool was made."""
    current: bool = True
    """Whether it has the published weights and may be asked."""
    lost: bool = False
    """It died, or was silent past its deadline; nothing is sent to it any more."""
    outbox: list[tuple[str, SampleRequest]] = field(default_factory=list)
    waiting: dict[str, tuple[str, asyncio.Future[Sample]]] = field(default_factory=dict)
    """The session and the future answer of each request."""
    poller: asyncio.Task[None] | None = None


class RolloutPool:
    """Sends each request to the least loaded engine that lives, and again to another if that one dies.

    Requests made in unbroken turns of the event loop travel together and join the engine's batch at the same step. So
    a batch of single-turn rollouts is computed in the same composition every time, which makes runs repeatable.

    With ``start``, an engine that is lost is replaced: the new one starts beside everything else, and serves once
    ``admit`` has brought it the published weights, or with the next publish.
    """

    def __init__(
        self,
        actors: Sequence[Any],
        *,
        deadline_s: float,
        name: str = "rollout worker",
        start: Callable[[int], tuple[Any, Any]] | None = None,
        start_deadline_s: float = 600.0,
    ) -> None:
        self._engines = [EngineHandle(i, f"{name} {i}", actor) for i, actor in enumerate(actors)]
        self._name = name
        self._deadline_s = deadline_s
        self._start = start
        self._start_deadline_s = start_deadline_s
        self.admit: Callable[[str], None] | None = None
        """Brings an engine that has started the published weights; says whether it could. Blocks."""
        self._count = 0
        self._last_at: dict[str, EngineHandle] = {}
        """Where each rollout's last request went, the longest silent first."""
        self._vain: Counter[int] = Counter()
        """Engines lost in a row, by place, without having answered anything."""
        self._losses = 0
        self._lock = threading.Lock()
        """Engines are lost, and new ones come, in the event loop and beside it."""
        self._failure: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        """Of those who wait for answers."""
        self._watcher: asyncio.Task[None] | None = None

    def engines(self) -> list[EngineHandle]:
        """Those that live and have started. Raises ``WorkerFailedError`` if there is none, and none to come."""
        deadline = time.monotonic() + self._start_deadline_s
        while True:
            self._check_started()
            found = [engine for engine in self._engines if engine.ready is None]
            if found:
                return found
            if not self._engines or time.monotonic() > deadline:
                raise self._none_left()
            time.sleep(LOOK_S)

    def engine(self, name: str) -> EngineHandle:
        """The engine of this name. Raises ``WorkerFailedError`` if it is lost."""
        for engine in self._engines:
            if engine.name == name:
                return engine
        raise WorkerFailedError(f"{name} is lost")

    def note_current(self, names: Iterable[str]) -> None:
        """These engines have the published weights."""
        for engine in self._engines:
            engine.current = engine.current or engine.name in names

    def add(self) -> str:
        """Start one more engine; returns its name. Needs ``start``."""
        with self._lock:
            return self._begin(1 + max((engine.number for engine in self._engines), default=-1)).name

    def lose(self, engine: EngineHandle, error: Exception) -> None:
        """End an engine, fail what it owes, and begin to replace it."""
        with self._lock:
            if engine.lost:
                return
            engine.lost = True
            self._engines.remove(engine)
            self._losses += 1
            self._vain[engine.number] += 1
            self._failure = error
            ray.kill(engine.actor)
            if self._start is not None and self._vain[engine.number] <= REPLACEMENTS:
                self._begin(engine.number)
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._fail_waiting, engine)

    def seek_dead(self, engines: Iterable[EngineHandle], *, deadline_s: float) -> bool:
        """Lose those of these engines that died while nobody waited for them; says whether any did."""
        calls = {engine: engine.actor.ready.remote() for engine in engines}
        return len(self._answers(calls, deadline_s)) < len(calls)

    def _answers(self, calls: Mapping[EngineHandle, Any], deadline_s: float) -> dict[EngineHandle, Any]:
        """What each engine says to its call. Those that fail at it are lost."""
        answers = {}
        for engine, call in calls.items():
            try:
                (answers[engine],) = wait_all({engine.name: call}, deadline_s=deadline_s)
            except WorkerFailedError as error:
                self.lose(engine, error)
        return answers

    def _fail_waiting(self, engine: EngineHandle) -> None:
        """Whoever waits for a lost engine turns to another, if there is one or will be."""
        failure = EngineLostError(str(self._failure)) if self._engines else self._none_left()
        waiting, engine.waiting = engine.waiting, {}
        for _, answer in waiting.values():
            if not answer.done():
                answer.set_exception(failure)

    def _begin(self, number: int) -> EngineHandle:
        assert self._start is not None
        self._count += 1
        actor, ready = self._start(number)
        engine = EngineHandle(number, f"{self._name} {number}.{self._count}", actor, ready=ready, current=False)
        self._engines.append(engine)
        return engine

    def _check_started(self) -> None:
        """Find out which of the new engines have started, and which failed to."""
        for engine in [engine for engine in self._engines if engine.ready is not None]:
            done, _ = ray.wait([engine.ready], timeout=0)
            if not done:
                continue
            try:
                ray.get(engine.ready, timeout=self._deadline_s)
                engine.ready = None
            except Exception as error:  # noqa: BLE001 - whatever it was, this engine does not come
                self.lose(engine, translate(engine.name, error))

    async def _watch(self) -> None:
        """Bring new engines the published weights as soon as they have started, until all serve."""
        while any(not engine.current for engine in self._engines):
            self._check_started()
            for engine in list(self._engines):
                if engine.ready is not None or engine.current:
                    continue
                if self.admit is None:
                    engine.current = True
                else:
                    await asyncio.to_thread(self.admit, engine.name)
            await asyncio.sleep(LOOK_S)

    def _serving(self) -> list[EngineHandle]:
        return [engine for engine in self._engines if engine.current]

    def _none_left(self) -> Exception:
        return self._failure or WorkerFailedError(f"no {self._name} is left")

    async def _await_engines(self) -> list[EngineHandle]:
        """Those that serve, once any does. Raises what ended the last one if none comes, or none in time."""
        deadline = time.monotonic() + self._start_deadline_s
        while True:
            serving = self._serving()
            if len(serving) < len(self._engines) and (self._watcher is None or self._watcher.done()):
                self._watcher = asyncio.get_running_loop().create_task(self._watch())
            if serving:
                return serving
            if not self._engines or time.monotonic() > deadline:
                raise self._none_left()
            await asyncio.sleep(LOOK_S)

    async def sample(self, request: SampleRequest) -> Sample:
        """See ``rl.protocols.Engine``. Raises ``EngineLostError`` if every engine that it is sent to dies of it."""
        for _ in range(SENDINGS):
            serving = await self._await_engines()
            try:
                return await self._send(self._choose(request.session, serving), request)
            except EngineLostError as error:
                lost = error
        raise lost

    def _choose(self, session: str, serving: Sequence[EngineHandle]) -> EngineHandle:
        """The engine that has the rollout's prefix, unless it has much more to do than another."""
        idlest = min(serving, key=lambda w: len(w.waiting))
        known = self._last_at.pop(session, idlest)
        overloaded = len(known.waiting) > STICKY * len(idlest.waiting) + STICKY_SLACK
        chosen = idlest if known.lost or overloaded else known
        if session:
            self._last_at[session] = chosen
            if len(self._last_at) > REMEMBERED:
                del self._last_at[next(iter(self._last_at))]
        return chosen

    async def _send(self, worker: EngineHandle, request: SampleRequest) -> Sample:
        loop = self._loop = asyncio.get_running_loop()
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

    def _flush(self, worker: EngineHandle, before: int) -> None:
        """Send what waits, unless this turn of the loop added to the ``before`` that did: then look again next turn."""
        if len(worker.outbox) > before:
            asyncio.get_running_loop().call_soon(self._flush, worker, len(worker.outbox))
            return
        requests, worker.outbox = worker.outbox, []
        if worker.lost:
            self._fail_waiting(worker)
            return
        worker.actor.submit.remote(requests)
        if worker.poller is None or worker.poller.done():
            worker.poller = asyncio.get_running_loop().create_task(self._poll(worker))

    async def _poll(self, worker: EngineHandle) -> None:
        """Fetch answers until none is owed; the engine is lost if it dies or falls silent."""
        heard = time.monotonic()
        try:
            while worker.waiting:
                answers = await asyncio.wait_for(
                    _awaitable(worker.actor.poll.remote(POLL_S)), timeout=self._deadline_s + POLL_S
                )
                if answers:
                    heard = time.monotonic()
                    self._vain[worker.number] = 0
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
            self.lose(worker, error if isinstance(error, WorkerFailedError) else translate(worker.name, error))
            self._fail_waiting(worker)

    async def interrupt(self, sessions: set[str]) -> None:
        """See ``rl.protocols.Engine``."""
        while any(worker.outbox for worker in self._engines):
            await asyncio.sleep(0)
        calls = []
        for worker in self._serving():
            concerned = [number for number, (session, _) in worker.waiting.items() if session in sessions]
            if concerned:
                calls.append(_awaitable(worker.actor.interrupt.remote(concerned)))
        # An engine that fails at it is found out by its poller, as at any other time, and its answers then fail.
        await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), self._deadline_s)

    def probe(self, engines: Sequence[str], requests: Sequence[SampleRequest]) -> dict[str, list[Sample]]:
        """See ``rl.protocols.WeightSink``. Needs no event loop."""
        asked = [engine for engine in self._engines if engine.name in engines]
        calls = {engine: engine.actor.answer.remote(list(requests), self._deadline_s) for engine in asked}
        answers = self._answers(calls, self._deadline_s)
        if engines and not answers:
            raise self._none_left()
        return {engine.name: samples for engine, samples in answers.items()}

    def sleep(self) -> None:
        """Have all engines let go of their GPUs' memory until they receive weights."""
        calls = {engine: engine.actor.sleep.remote() for engine in self._engines if engine.ready is None}
        self._answers(calls, self._deadline_s)

    def trace(self, engine: str, token_ids: Sequence[int]) -> Mapping[str, Any]:
        """See ``rl.protocols.WeightSink``."""
        call = self.engine(engine).actor.trace.remote(list(token_ids))
        (result,) = wait_all({engine: call}, deadline_s=self._deadline_s)
        return dict(result)

    def metrics(self) -> dict[str, float]:
        """How many engines were lost since the last call, and how many serve."""
        losses, self._losses = self._losses, 0
        return {"fault/engines": float(losses), "rollout/engines": float(len(self._serving()))}


async def _awaitable(ref: Any) -> Any:
    return await asyncio.wrap_future(ref.future())
