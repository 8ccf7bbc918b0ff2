"""An engine's end of the checkpoint engine: take a bucket, load it, release it, take the next."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

import torch
from torch import Tensor

from rl.config import Transport
from rl.errors import TransferError
from rl.types import BucketSpec, Loaded
from rl.weights.digest import as_text, digest
from rl.weights.direct import Copies, CopyRecorder, fingerprint
from rl.weights.layout import unpack
from rl.weights.transports.base import Receiver, Route, Seat
from rl.weights.transports.group import GroupReceiver
from rl.weights.transports.shared import SharedReceiver

Tensors = Iterable[tuple[str, Tensor]]


class LoadableModel(Protocol):
    """An engine's model. Tensors to load come under their names in a checkpoint."""

    device: torch.device

    def reload(self, tensors: Tensors) -> set[str]:
        """The engine's whole way of replacing weights, which may keep hold of the tensors until it ends.

        Returns the names of the parameters that received something.
        """
        ...

    def load(self, tensors: Tensors) -> None:
        """Only what copies tensors into parameters where they are."""
        ...

    def parameters(self) -> Mapping[str, Tensor]: ...

    def tensors(self) -> Mapping[str, Tensor]:
        """All that the model computes with: parameters, buffers, and what was derived from them."""
        ...


class WeightReceiver:
    """One engine process's end of all open routes, and the shortest way that a bucket may take into its model.

    The first transfer to a GPU is loaded by copying alone, and is asked for again. The second one takes the engine's
    whole way. If both leave the same tensors behind, though the first began with other weights, copies are enough from
    then on.
    """

    def __init__(self, model: LoadableModel) -> None:
        self._model = model
        self._routes: dict[str, tuple[Route, Receiver | None]] = {}
        self._copies: Copies | None = None
        self._filled: set[str] = set()
        self._prints: dict[str, list[int]] | None = None
        """Of the tensors that copying alone left behind."""
        self._undecided = model.device.type == "cuda"

    def open(self, route: Route, seat: Seat) -> None:
        """Take this process's place on a route."""
        receiver: Receiver | None = None
        if route.kind is Transport.nccl:
            receiver = GroupReceiver(route, seat.number, self._model.device)
        elif route.kind is Transport.cuda_ipc:
            receiver = SharedReceiver(route, seat, self._model.device)
        self._routes[route.name] = route, receiver

    def close(self, name: str) -> None:
        """Leave a route and free its buffers. An unknown one is closed already."""
        _, receiver = self._routes.pop(name, (None, None))
        if receiver is not None:
            receiver.close()

    @torch.no_grad()
    def receive(self, name: str, serial: int, carried: Receiver | None) -> Loaded:
        """Load transfer ``serial`` of a route; ``carried`` has the buckets where the route leaves them to the caller.

        Raises ``TransferError``; the weights are then a mixture.
        """
        route, receiver = self._routes[name]
        source = receiver or carried
        assert source is not None
        source.begin(serial, [spec.nbytes for spec in route.specs])
        sums: list[Tensor] = []
        buckets = self._buckets(route.specs, source, sums)
        filled, again = self._load(buckets)
        return Loaded(
            digests=tuple(as_text(pair) for pair in torch.stack(sums).tolist()),
            empty=tuple(sorted(set(self._model.parameters()) - filled)),
            again=again,
        )

    def _buckets(
        self, specs: Iterable[BucketSpec], source: Receiver, sums: list[Tensor]
    ) -> Iterator[tuple[int, BucketSpec, Tensor]]:
        """Each bucket as it arrives; its digest is added to ``sums``. It is released when the next is asked for."""
        for index, spec in enumerate(specs):
            buffer = source.take(index).to(self._model.device)
            sums.append(digest(buffer))
            yield index, spec, buffer
            source.release(index)

    def _load(self, buckets: Iterator[tuple[int, BucketSpec, Tensor]]) -> tuple[set[str], bool]:
        """Load them; returns the parameters that received something, and whether to send all of it again."""
        if self._copies is not None and not self._undecided:
            for index, _, buffer in buckets:
                self._copies.run(index, buffer)
            return self._filled, False
        if self._undecided and self._prints is None:
            self._record(buckets)
            return self._filled, True
        filled = self._model.reload(_kept(buckets))
        if self._undecided:
            self._undecided = False
            if self._prints != fingerprint(self._model.tensors()):
                self._copies = None
        return filled, False

    def _record(self, buckets: Iterator[tuple[int, BucketSpec, Tensor]]) -> None:
        recorder = CopyRecorder(self._model.parameters())

        def tensors() -> Iterator[tuple[str, Tensor]]:
            for index, spec, buffer in buckets:
                recorder.enter_bucket(index, buffer)
                yield from unpack(buffer, spec)

        try:
            with recorder:
                self._model.load(tensors())
        except TransferError:
            raise
        except Exception:  # noqa: BLE001 - a loader that cannot load where the parameters are: then not this way
            self._undecided = False
            for _ in buckets:
                pass
            return
        self._filled = recorder.filled
        self._prints = fingerprint(self._model.tensors()) if recorder.faithful else {}
        self._copies = Copies(recorder.copies)


def _kept(buckets: Iterator[tuple[int, BucketSpec, Tensor]]) -> Iterator[tuple[str, Tensor]]:
    """The buckets' tensors as copies, for whoever holds on to them after the next one came."""
    for _, spec, buffer in buckets:
        for name, tensor in unpack(buffer, spec):
            yield name, tensor.clone()
