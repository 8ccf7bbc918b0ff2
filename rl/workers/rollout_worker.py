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

from rl.types import Sample, SampleRequest, WeightVersion
from rl.workers import vllm_compat


class RolloutWorker:
    """The actor. ``submit`` and ``poll`` are the two halves of sampling; the rest runs between requests."""

    def __init__(self, options: vllm_compat.EngineOptions) -> None:
        vllm_compat.prepare_environment(threads=options.threads)
        self._inbox: queue.SimpleQueue[list[tuple[str, SampleRequest]] | tuple[Callable[[], Any], Future[Any]]] = (
            queue.SimpleQueue()
        )
        self._finished: list[tuple[str, Sample]] = []
        self._news = threading.Condition()
        self._fault: str | None = None
        self._version = -1
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

    def load_weights(self, version: WeightVersion, handles: list[Any]) -> tuple[str, list[str]]:
        """Fetch, check and load a version. Running requests are interrupted: what there is of them is their answer.

        Returns the digest of the bytes that were loaded and the engine parameters that received nothing.
        """
        import ray

        from rl.weights.buckets import bucket_digest, total_digest, unpack

        datas = ray.get(handles)
        digests = [bucket_digest(s.tensors, data) for s, data in zip(version.buckets, datas, strict=True)]
        tensors = {
            name: tensor.clone()
            for spec, data in zip(version.buckets, datas, strict=True)
            for name, tensor in unpack(spec, data.copy())
        }

        def load() -> list[str]:
            self._publish(self._engine.interrupt())
            empty: list[str] = self._engine.load_weights(tensors)
            self._version = version.number
            return empty

        return total_digest(digests), self._on_engine(load)

    def interrupt(self, request_ids: list[str]) -> None:
        """Answer these requests, as far as they are unfinished, with what there is of them."""
        self._on_engine(lambda: self._publish(self._engine.interrupt(set(request_ids))))

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
                now = time.monotonic()
                for request_id, request in item:
                    self._engine.add(request_id, request)
                    self._submitted[request_id] = now
                continue
            call, done = item
            try:
                done.set_result(call())
            except BaseException as error:  # noqa: BLE001 - belongs to the caller
                done.set_exception(error)

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
                    policy_version=self._version,
                    generate_s=now - self._submitted.pop(a.request_id),
                    interrupted=a.interrupted,
                    cached_tokens=a.cached_tokens,
                    repetitive=a.repetitive,
                ),
            )
            for a in answers
        ]
        with self._news:
            self._finished.extend(samples)
            self._news.notify_all()
