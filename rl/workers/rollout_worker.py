"""A rollout worker: one vLLM engine in one Ray actor, stepped by one thread.

Requests may come at any time and join the running batch at the engine's next step; each answer is ready when its own
last token is sampled. All calls into the engine happen on the stepping thread.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

from rl.config import Transport
from rl.types import ON_DISK, Loaded, Sample, SampleRequest
from rl.weights.transports.base import Route, Seat
from rl.weights.transports.object_store import StoreReceiver
from rl.workers import vllm_compat

DIRECT = "direct/"
"""Names of requests that somebody waits for in a call of its own begin so."""


class RolloutWorker:
    """The actor. ``submit`` and ``poll`` are the two halves of sampling; the rest runs between requests."""

    def __init__(self, options: vllm_compat.EngineOptions) -> None:
        vllm_compat.prepare_environment(threads=options.threads)
        self._inbox: queue.SimpleQueue[list[tuple[str, SampleRequest]] | tuple[Callable[[], Any], Future[Any]]] = (
            queue.SimpleQueue()
        )
        self._finished: list[tuple[str, Sample]] = []
        self._direct: dict[str, Sample] = {}
        """Answers that are not for ``poll``."""
        self._news = threading.Condition()
        self._fault: str | None = None
        self._version: int | None = None if options.filled else ON_DISK
        """Of the weights that it has; None while they are none, or a mixture of several."""
        self._asleep = False
        self._parcels: dict[str, StoreReceiver] = {}
        self._held: list[tuple[str, SampleRequest]] = []
        """Requests that came while there was no version to answer them."""
        self._submitted: dict[str, float] = {}
        started: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, args=(options, started), daemon=True, name="engine")
        self._thread.start()
        started.result()

    def ready(self) -> int:
        """Process id; returns once the engine has started."""
        return os.getpid()

    def submit(self, requests: list[tuple[str, SampleRequest]]) -> None:
        """Queue requests under new ids. All of one call join the batch at the same step."""
        self._inbox.put(requests)

    def poll(self, timeout_s: float) -> list[tuple[str, Sample]]:
        """Answers finished since the last poll; waits up to ``timeout_s`` for the first. Raises if the engine did."""
        with self._news:
            self._news.wait_for(lambda: self._finished or self._fault, timeout=timeout_s)
            if self._fault is not None:
                raise RuntimeError(self._fault)
            out, self._finished = self._finished, []
            return out

    def answer(self, requests: list[SampleRequest], deadline_s: float) -> list[Sample]:
        """Sample and wait, beside whatever ``poll`` is asked for. Raises ``RuntimeError`` if the engine failed."""
        names = [f"{DIRECT}{id(requests)}/{i}" for i in range(len(requests))]
        self.submit(list(zip(names, requests, strict=True)))
        with self._news:
            self._news.wait_for(lambda: self._fault or all(n in self._direct for n in names), timeout=deadline_s)
            if self._fault is not None:
                raise RuntimeError(self._fault)
            return [self._direct.pop(name) for name in names]

    def open_route(self, route: Route, seats: list[Seat]) -> None:
        """Take the engine's seats on a route for weights."""
        self._on_engine(lambda: self._engine.open_route(route, seats))
        if route.kind is Transport.object_store:
            self._parcels[route.name] = StoreReceiver(route)

    def close_route(self, name: str) -> None:
        """Leave a route. An unknown one is left already."""
        self._parcels.pop(name, None)
        self._on_engine(lambda: self._engine.close_route(name))

    def deliver(self, name: str, serial: int, index: int, data: Any) -> None:
        """Bucket ``index`` of a transfer on a route that leaves buckets to the caller; None if it was given up."""
        parcels = self._parcels.get(name)
        if parcels is not None:  # else the route was closed while this bucket was under way
            parcels.deliver(serial, index, data)

    def receive(self, name: str, serial: int, number: int) -> Loaded:
        """Load transfer ``serial``, which is version ``number``. Running requests are answered with what there is.

        If it fails, requests wait until a later transfer succeeds: nothing is sampled from a mixture.
        """

        def load() -> Loaded:
            self._publish(self._engine.interrupt())
            self._version = None
            if self._asleep:
                self._engine.wake("weights")
            loaded = self._engine.receive_weights(name, serial, self._parcels.get(name))
            if self._asleep:
                self._engine.wake("kv_cache")
                self._asleep = False
            self._version = number
            return loaded

        loaded: Loaded = self._on_engine(load)
        return loaded

    def sleep(self) -> None:
        """Let go of the GPU's memory until weights are received. Running requests are answered with what there is."""

        def sleep() -> None:
            self._publish(self._engine.interrupt())
            self._version = None
            if not self._asleep:
                self._engine.sleep()
            self._asleep = True

        self._on_engine(sleep)

    def interrupt(self, request_ids: list[str]) -> None:
        """Answer these requests, as far as they are unfinished, with what there is of them."""

        def interrupt() -> None:
            unbegun = [item for item in self._held if item[0] in request_ids]
            self._held = [item for item in self._held if item[0] not in request_ids]
            self._publish([*self._engine.interrupt(set(request_ids)), *(vllm_compat.unbegun(i) for i, _ in unbegun)])

        self._on_engine(interrupt)

    def trace(self, token_ids: list[int]) -> dict[str, Any]:
        def trace() -> dict[str, Any]:
            self._publish(self._engine.interrupt())
            return dict(self._engine.trace(token_ids))

        return dict(self._on_engine(trace))

    def _on_engine(self, call: Callable[[], Any]) -> Any:
        done: Future[Any] = Future()
        self._inbox.put((call, done))
        return done.result()

    def _run(self, options: vllm_compat.EngineOptions, started: Future[None]) -> None:
        try:
            self._engine = vllm_compat.Engine(options)
        except BaseException as error:  # noqa: BLE001 - handed to whoever started the worker
            started.set_exception(error)
            return
        started.set_result(None)
        try:
            while True:
                self._admit()
                if self._engine.busy:
                    self._publish(self._engine.step())
        except Exception:  # noqa: BLE001 - the thread must not die silently: every later poll reports it
            with self._news:
                self._fault = traceback.format_exc()
                self._news.notify_all()

    def _admit(self) -> None:
        """Take what waits in the inbox; block if there is nothing else to do."""
        while not self._inbox.empty() or not self._engine.busy:
            item = self._inbox.get()
            if isinstance(item, list):
                self._held += item
                self._begin_held()
                continue
            call, done = item
            try:
                done.set_result(call())
            except BaseException as error:  # noqa: BLE001 - belongs to the caller
                done.set_exception(error)
            self._begin_held()

    def _begin_held(self) -> None:
        if self._version is None:
            return
        now = time.monotonic()
        for request_id, request in self._held:
            self._engine.add(request_id, request)
            self._submitted[request_id] = now
        self._held = []

    def _publish(self, answers: Sequence[Any]) -> None:
        if not answers:
            return
        now = time.monotonic()
        samples = [
            (
                a.request_id,
                Sample(
                    token_ids=a.token_ids,
                    logprobs=a.logprobs,
                    stopped=a.stopped,
                    policy_version=ON_DISK if self._version is None else self._version,
                    generate_s=now - self._submitted.pop(a.request_id, now),
                    interrupted=a.interrupted,
                    cached_tokens=a.cached_tokens,
                    repetitive=a.repetitive,
                ),
            )
            for a in answers
        ]
        with self._news:
            self._direct |= {name: sample for name, sample in samples if name.startswith(DIRECT)}
            self._finished += [item for item in samples if not item[0].startswith(DIRECT)]
            self._news.notify_all()
