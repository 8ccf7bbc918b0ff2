"""The driver's view of the checkpoint engine: opens routes between trainer ranks and engines, and runs transfers."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.distributed import DistError

from rl.config import Transport
from rl.errors import TransferError, WorkerFailedError
from rl.types import BucketSpec, Loaded, Sample, SampleRequest, WeightVersion
from rl.weights.digest import total_digest
from rl.weights.send import LAST
from rl.weights.transports.base import Route, Seat, give_up
from rl.workers.calls import translate, wait_all
from rl.workers.rollout_pool import EngineHandle, RolloutPool
from rl.workers.trainer_group import TrainerGroup

LOOK_S = 1.0
"""Between two looks at whether a transfer has failed somewhere."""
_serials = itertools.count(1)
"""Of routes and transfers, for all channels: those of one trainer meet in the same store."""


class Channel:
    """Implements ``rl.protocols.WeightSink``: moves the trainer's weights into engines, by one transport.

    A route is opened to all engines that live, and stays open until they change. An engine that comes later is served
    by a route of its own through the object store, which needs nothing of the others.
    """

    def __init__(
        self,
        trainer: TrainerGroup,
        pool: RolloutPool,
        *,
        kind: Transport,
        bucket_bytes: int,
        deadline_s: float,
        tensor_parallel: int,
    ) -> None:
        self._trainer, self._pool = trainer, pool
        self._kind, self._bucket_bytes, self._deadline_s = kind, bucket_bytes, deadline_s
        self._processes = tensor_parallel
        self._layout: tuple[tuple[BucketSpec, ...], str, int] | None = None
        self._store: TCPStore | None = None
        """Where trainer and engines meet. To connect to a rank that is gone would take the whole deadline."""
        self._open: tuple[Route, list[EngineHandle]] | None = None

    def transfer(self, only: str | None = None) -> tuple[WeightVersion, Mapping[str, Loaded]]:
        """See ``rl.protocols.WeightSink``."""
        if only is not None:
            engine = self._pool.engine(only)
            route = self._open_route(Transport.object_store, [engine])
            try:
                return self._run(route, [engine])
            finally:
                self._close_route(route, [engine])
        engines = self._pool.engines()
        while True:
            try:
                return self._run(self._route_to(engines), engines)
            except TransferError:
                # Whoever failed at it is lost; the others hold a mixture, and get all of it once more.
                self.close()
                if not any(engine.lost for engine in engines):
                    raise
                engines = self._pool.engines()

    def _route_to(self, engines: list[EngineHandle]) -> Route:
        if self._open is not None and self._open[1] == engines:
            return self._open[0]
        self.close()
        if self._pool.seek_dead(engines, deadline_s=self._deadline_s):
            # The members of a group wait for each other when it forms.
            raise TransferError("an engine died before the route to it was open")
        route = self._open_route(self._kind, engines)
        self._open = route, engines
        return route

    def close(self) -> None:
        """Close the route that is open, and free the buffers on both sides."""
        if self._open is not None:
            route, engines = self._open
            self._open = None
            self._close_route(route, engines)

    def _open_route(self, kind: Transport, engines: Sequence[EngineHandle]) -> Route:
        if self._layout is None:
            self._layout = self._trainer.layout(self._bucket_bytes)
        specs, host, port = self._layout
        if self._store is None and kind is not Transport.object_store:
            timeout = timedelta(seconds=self._deadline_s)
            self._store = TCPStore(host, port, is_master=False, wait_for_workers=False, timeout=timeout)
        ranks = self._trainer.ranks
        places = [(engine, process) for engine in engines for process in range(self._processes)]
        reads = {place: self._rank_beside(*place) % ranks for place in places}
        route = Route(
            name=f"route-{next(_serials)}",
            kind=kind,
            host=host,
            port=port,
            deadline_s=self._deadline_s,
            specs=specs,
            size=1 + len(places),
            readers={rank: list(reads.values()).count(rank) for rank in set(reads.values())},
        )
        seats: dict[str, list[Seat]] = {engine.name: [] for engine in engines}
        ranks_open = self._trainer.start("open_route", route)
        handles: list[Any] = []
        if kind is Transport.cuda_ipc:
            handles = wait_all(ranks_open, deadline_s=self._deadline_s)
        taken: dict[int, int] = {}
        for number, (engine, process) in enumerate(places, start=1):
            rank = reads[engine, process]
            reader = taken.get(rank, 0)
            taken[rank] = reader + 1
            seat = Seat(number=number, rank=rank, reader=reader, handles=handles[rank] if handles else None)
            seats[engine.name].append(seat)
        opening = {engine.name: engine.actor.open_route.remote(route, seats[engine.name]) for engine in engines}
        # A group forms when all of its members have come, so none is waited for before the others are asked.
        try:
            wait_all(ranks_open | opening, deadline_s=self._deadline_s)
        except WorkerFailedError as error:
            if not self._pool.seek_dead(engines, deadline_s=self._deadline_s):
                raise
            self._close_route(route, engines)
            raise TransferError(str(error)) from error
        return route

    def _rank_beside(self, engine: EngineHandle, process: int) -> int:
        """The trainer rank on the GPU of an engine's process, where engines share the ranks' GPUs in order."""
        return engine.number * self._processes + process

    def _close_route(self, route: Route, engines: Sequence[EngineHandle]) -> None:
        closing = self._trainer.start("close_route", route.name)
        closing |= {e.name: e.actor.close_route.remote(route.name) for e in engines if not e.lost}
        for name, call in closing.items():
            with suppress(WorkerFailedError):  # what fails at it is found out by whoever needs it next
                wait_all({name: call}, deadline_s=self._deadline_s)

    def _run(self, route: Route, engines: Sequence[EngineHandle]) -> tuple[WeightVersion, Mapping[str, Loaded]]:
        version, answers = self._once(route, engines)
        if any(answer.again for answer in answers.values()):
            version, answers = self._once(route, engines)
        return version, answers

    def _once(self, route: Route, engines: Sequence[EngineHandle]) -> tuple[WeightVersion, Mapping[str, Loaded]]:
        """One transfer. Raises ``TransferError`` if it failed on the way, ``WorkerFailedError`` if the trainer did."""
        serial, number = next(_serials), self._trainer.version
        taking = {engine.actor.receive.remote(route.name, serial, number): engine for engine in engines}
        streams = self._trainer.stream("send", route.name, serial)
        digests: tuple[str, ...] | None = None
        answers: dict[str, Loaded] = {}
        problem: str | None = None
        waiting: list[Any] = [*taking, *streams]
        moved = time.monotonic()
        while waiting:
            done, _ = ray.wait(waiting, num_returns=1, timeout=LOOK_S, fetch_local=False)
            silent_s = time.monotonic() - moved
            failure: str | None = None
            if not done:
                if silent_s > 2 * self._deadline_s:
                    self._lose_silent([taking[ref] for ref in waiting if ref in taking])
                    break
                if silent_s > self._deadline_s:
                    failure = f"nothing moved for {self._deadline_s:.0f} s (weights.deadline_s)"
            elif done[0] in taking:
                moved = time.monotonic()
                waiting.remove(done[0])
                failure = self._note_answer(done[0], taking[done[0]], answers)
            else:
                moved = time.monotonic()
                parcel = self._next(done[0], streams[done[0]])
                if parcel is None:
                    waiting.remove(done[0])
                    if digests is None and not any(ref in streams for ref in waiting):
                        failure = "the trainer's ranks ended before everything was sent"
                elif isinstance(parcel, str):
                    failure = parcel
                elif parcel[0] == LAST:
                    digests = parcel[1]
                else:
                    for engine in engines:
                        engine.actor.deliver.remote(route.name, serial, *parcel)
            if failure is not None and problem is None:
                problem = failure
                self._give_up(route, serial, engines)
        if problem is not None or digests is None or len(answers) < len(engines):
            raise TransferError(problem or "not every engine answered")
        version = WeightVersion(
            number=number,
            digest=total_digest(route.specs, digests),
            digests=digests,
            nbytes=sum(spec.nbytes for spec in route.specs),
        )
        return version, answers

    def _note_answer(self, ref: Any, engine: EngineHandle, answers: dict[str, Loaded]) -> str | None:
        """Take an engine's answer; returns what went wrong, if anything did. One that died is lost."""
        try:
            answers[engine.name] = ray.get(ref, timeout=self._deadline_s)
        except RayTaskError as error:
            if isinstance(error.cause, TransferError | DistError):
                return f"{engine.name}: {error.cause}"
            self._pool.lose(engine, translate(engine.name, error))
            return f"{engine.name} failed at loading"
        except RayError as error:
            self._pool.lose(engine, translate(engine.name, error))
            return f"{engine.name} was lost"
        return None

    def _next(self, stream: Any, rank: str) -> tuple[int, Any] | str | None:
        """A bucket's number and a reference to its bytes; what went wrong; or None at the end of the stream.

        After the number ``LAST`` come the digests themselves.
        """
        try:
            ref = next(stream)
            number, ref = ray.get(ref, timeout=self._deadline_s), next(stream)
            return number, ray.get(ref, timeout=self._deadline_s) if number == LAST else ref
        except StopIteration:
            return None
        except RayError as error:
            if isinstance(error, RayTaskError) and isinstance(error.cause, TransferError):
                return f"{rank}: {error.cause}"
            # It may only have noticed that another rank died: asked of all, ``wait_all`` names that one.
            wait_all(self._trainer.start("place") | {rank: ref}, deadline_s=self._deadline_s)
            raise

    def _lose_silent(self, engines: Sequence[EngineHandle]) -> None:
        """Give up engines that do not even notice that a transfer was given up."""
        if not engines:
            raise WorkerFailedError(f"the trainer sent nothing for {2 * self._deadline_s:.0f} s (weights.deadline_s)")
        for engine in engines:
            failure = WorkerFailedError(f"{engine.name} did not load weights within {2 * self._deadline_s:.0f} s")
            self._pool.lose(engine, failure)

    def _give_up(self, route: Route, serial: int, engines: Sequence[EngineHandle]) -> None:
        """End every wait for this transfer."""
        if route.kind is Transport.object_store:
            for engine in engines:
                engine.actor.deliver.remote(route.name, serial, 0, None)
            return
        assert self._store is not None, "the route was opened over it"
        with suppress(DistError):  # then the trainer's first rank is gone, and every wait ends by itself
            give_up(PrefixStore(route.name, self._store))

    def probe(self, engines: Sequence[str], requests: Sequence[SampleRequest]) -> Mapping[str, Sequence[Sample]]:
        """See ``rl.protocols.WeightSink``."""
        return self._pool.probe(engines, requests)

    def trace(self, engine: str, token_ids: Sequence[int]) -> Mapping[str, Any]:
        """See ``rl.protocols.WeightSink``."""
        return self._pool.trace(engine, token_ids)

    def tensor_names(self, module: str) -> Sequence[str]:
        """See ``rl.protocols.WeightSink``."""
        specs = self._layout[0] if self._layout is not None else ()
        return [tensor.name for spec in specs for tensor in spec.tensors if tensor.name.startswith(module + ".")]

    def accept(self, engines: Sequence[str]) -> None:
        """See ``rl.protocols.WeightSink``."""
        self._pool.note_current(engines)

    def drop(self, engine: str, error: Exception) -> None:
        """See ``rl.protocols.WeightSink``."""
        with suppress(WorkerFailedError):  # it died of it, and is lost already
            self._pool.lose(self._pool.engine(engine), error)
