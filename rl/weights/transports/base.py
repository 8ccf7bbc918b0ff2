"""What a transport is: buckets go in at the trainer, and come out at every engine, in order.

A trainer rank asks for a free buffer, fills it and ships it; an engine takes the next bucket, loads it and releases it.
There are two buffers on each side: while one is loaded the next is under way. With the one into which ZeRO-3 gathers
a bucket's shards these are the three equal buffers of Kimi K2's checkpoint engine (K2, appendix G).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._C._distributed_c10d import PrefixStore, TCPStore

from rl.config import Transport
from rl.errors import TransferError
from rl.types import BucketSpec

BUFFERS = 2
_GIVEN_UP = "given up"
_PAUSE_S, _LOOK_S = 2e-4, 0.5
"""How long a wait sleeps between two looks at what it waits for, and at whether the transfer was given up."""


@dataclass(frozen=True, kw_only=True)
class Route:
    """One way from the trainer to some engines, open until it is closed. The same for all who take part."""

    name: str
    kind: Transport
    host: str
    port: int
    """Of the store where both sides meet."""
    deadline_s: float
    """Longest wait for the other side."""
    specs: tuple[BucketSpec, ...]
    size: int
    """Processes that take part in a broadcast: the trainer's first rank and every process of an engine."""
    readers: dict[int, int]
    """How many engine processes read the buffers of each trainer rank that shares any."""

    @property
    def buffer_bytes(self) -> int:
        return max(spec.nbytes for spec in self.specs)


@dataclass(frozen=True, kw_only=True)
class Seat:
    """One engine process's place on a route."""

    number: int
    """From 1: its rank in a broadcast. The trainer's is 0."""
    rank: int = 0
    """The trainer rank whose buffers it reads."""
    reader: int = 0
    """Its number among those readers."""
    handles: Any = None
    """Those buffers, as that rank shares them."""


class Sender(Protocol):
    """The trainer's end."""

    def begin(self, serial: int) -> None:
        """Transfer number ``serial`` of this route comes next."""
        ...

    def buffer(self, index: int) -> Tensor:
        """A buffer, uint8, that is free for bucket ``index``. Raises ``TransferError`` if none becomes free in time."""
        ...

    def ship(self, index: int, nbytes: int) -> NDArray[Any] | None:
        """Bucket ``index`` lies in its buffer. Returns it if it is the caller's to carry on."""
        ...

    def finish(self) -> None:
        """Wait until every bucket was taken. Raises ``TransferError`` if that takes too long."""
        ...

    def close(self) -> None: ...


class Receiver(Protocol):
    """An engine process's end."""

    def begin(self, serial: int, sizes: list[int]) -> None:
        """Transfer number ``serial`` of this route comes next, in buckets of these sizes."""
        ...

    def take(self, index: int) -> Tensor:
        """Bucket ``index``. Raises ``TransferError`` if it does not come in time."""
        ...

    def release(self, index: int) -> None:
        """Nothing reads bucket ``index`` any more, once what is queued on the device is done."""
        ...

    def close(self) -> None: ...


class Meeting:
    """The store where both sides of a route meet, and waits that end when the other side gives up."""

    def __init__(self, route: Route) -> None:
        timeout = timedelta(seconds=route.deadline_s)
        self._tcp = TCPStore(route.host, route.port, is_master=False, wait_for_workers=False, timeout=timeout)
        self.store = PrefixStore(route.name, self._tcp)
        self._route = route

    def until(self, done: Callable[[], bool], what: str) -> None:
        """Wait for ``done``. Raises ``TransferError`` past the deadline, or when the transfer was given up."""
        deadline = time.monotonic() + self._route.deadline_s
        look = time.monotonic() + _LOOK_S
        while not done():
            now = time.monotonic()
            if now > deadline:
                raise TransferError(f"{what} took longer than {self._route.deadline_s:.0f} s (weights.deadline_s)")
            if now > look:
                if self.store.check([_GIVEN_UP]):
                    raise TransferError(f"the transfer was given up while waiting for {what}")
                look = now + _LOOK_S
            time.sleep(_PAUSE_S)


def give_up(store: PrefixStore) -> None:
    """End every wait on the route with this store."""
    store.set(_GIVEN_UP, "1")


def synchronise(device: torch.device) -> None:
    """Wait for what is queued on a device."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
