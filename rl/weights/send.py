"""The trainer's end of the checkpoint engine: gather a bucket, lay it into a free buffer, ship it, take the next."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._C._distributed_c10d import TCPStore

from rl.config import Transport
from rl.errors import TransferError
from rl.types import BucketSpec
from rl.weights.digest import as_text, digest
from rl.weights.layout import BucketPlan
from rl.weights.transports.base import Route, Sender
from rl.weights.transports.group import GroupSender
from rl.weights.transports.object_store import StoreSender
from rl.weights.transports.shared import SharedSender

LAST = -1
"""In place of a bucket's number: the digests of all follow."""
Lay = Callable[[BucketPlan, Tensor | None], None]
"""Lays a bucket's parameters, gathered from all ranks, into a buffer. Every rank calls it for every bucket, in order;
one without a buffer only helps to gather."""


class WeightSender:
    """One trainer rank's end of all open routes. ``takes_part`` says whether it is needed for gathering alone."""

    def __init__(
        self,
        plans: Sequence[BucketPlan],
        lay: Lay,
        *,
        rank: int,
        device: torch.device,
        takes_part: bool,
    ) -> None:
        self._plans, self._lay = plans, lay
        self._rank, self._device = rank, device
        self._takes_part = takes_part
        self._senders: dict[str, Sender] = {}
        self._store: TCPStore | None = None

    @property
    def specs(self) -> tuple[BucketSpec, ...]:
        """Layout of all buckets."""
        return tuple(plan.spec for plan in self._plans)

    def listen(self, host: str) -> int:
        """Open the store where both sides of a route meet; returns its port."""
        if self._store is None:
            self._store = TCPStore(host, 0, is_master=True, wait_for_workers=False)
        return int(self._store.port)

    def open(self, route: Route) -> list[bytes] | None:
        """Take this rank's place on a route; returns the handles of what it shares, if it shares anything."""
        if route.kind is Transport.cuda_ipc:
            if self._rank not in route.readers:
                return None
            shared = SharedSender(route, self._rank, self._device)
            self._senders[route.name] = shared
            return shared.handles()
        if self._rank == 0:
            make = GroupSender if route.kind is Transport.nccl else StoreSender
            self._senders[route.name] = make(route, self._device)
        return None

    def close(self, name: str) -> None:
        """Leave a route and free its buffers. An unknown one is closed already."""
        sender = self._senders.pop(name, None)
        if sender is not None:
            sender.close()

    @torch.no_grad()
    def send(self, name: str, serial: int) -> Iterator[tuple[int, Any]]:
        """Send the present weights as transfer ``serial`` of a route.

        Yields each bucket's number and bytes if the route leaves them to the caller, and at last ``LAST`` and the
        digests of all buckets. A rank without a place on the route yields nothing. Raises ``TransferError``.
        """
        sender = self._senders.get(name)
        if sender is None:
            self._gather_from(0)
            return
        sender.begin(serial)
        sums = []
        for index, plan in enumerate(self._plans):
            try:
                buffer = sender.buffer(index)[: plan.spec.nbytes]
            except TransferError:
                self._gather_from(index)
                raise
            self._lay(plan, buffer)
            sums.append(digest(buffer))
            parcel = sender.ship(index, plan.spec.nbytes)
            if parcel is not None:
                yield index, parcel
        sender.finish()
        yield LAST, tuple(as_text(pair) for pair in torch.stack(sums).tolist())

    def _gather_from(self, first: int) -> None:
        """What other ranks send needs this one, if it is needed for gathering at all, whether it sends or not."""
        if self._takes_part:
            for plan in self._plans[first:]:
                self._lay(plan, None)
