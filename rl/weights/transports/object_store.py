"""Through Ray's object store: whoever runs the transfer carries each bucket from the trainer to the engines."""

from __future__ import annotations

import threading
import time
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from rl.errors import TransferError
from rl.weights.transports.base import Route


class StoreSender:
    """The trainer's first rank. What it ships is handed back, to be carried on."""

    def __init__(self, route: Route, device: torch.device) -> None:
        self._buffer = torch.empty(route.buffer_bytes, dtype=torch.uint8, device=device)

    def begin(self, serial: int) -> None:
        """The caller numbers what it carries."""

    def buffer(self, index: int) -> Tensor:
        return self._buffer

    def ship(self, index: int, nbytes: int) -> NDArray[Any]:
        # A copy: Ray reads it while the next bucket is filled.
        shipped: NDArray[Any] = self._buffer[:nbytes].to("cpu", copy=True).numpy()
        return shipped

    def finish(self) -> None:
        """Whoever carries the buckets knows when they have arrived."""

    def close(self) -> None:
        self._buffer = torch.empty(0)


class StoreReceiver:
    """An engine: buckets are delivered to it by calls, in any order."""

    def __init__(self, route: Route) -> None:
        self._deadline_s = route.deadline_s
        self._count = len(route.specs)
        self._news = threading.Condition()
        self._delivered: dict[tuple[int, int], NDArray[Any]] = {}
        self._serial = 0
        self._given_up: int | None = None

    def begin(self, serial: int, sizes: list[int]) -> None:
        with self._news:
            self._serial = serial
            self._delivered = {key: data for key, data in self._delivered.items() if key[0] == serial}

    def deliver(self, serial: int, index: int, data: NDArray[Any] | None) -> None:
        """Bucket ``index`` of transfer ``serial``; None if the transfer was given up."""
        with self._news:
            if data is None:
                self._given_up = serial
            else:
                self._delivered[serial, index] = data
            self._news.notify_all()

    def take(self, index: int) -> Tensor:
        key, deadline = (self._serial, index), time.monotonic() + self._deadline_s
        with self._news:
            while key not in self._delivered:
                if self._given_up == self._serial:
                    raise TransferError(f"the transfer was given up while waiting for bucket {index}")
                if not self._news.wait(timeout=deadline - time.monotonic()):
                    raise TransferError(
                        f"bucket {index} took longer than {self._deadline_s:.0f} s (weights.deadline_s)"
                    )
            # Ray's arrays are read-only and torch would warn of it; nothing writes here.
            return torch.frombuffer(self._delivered[key].data, dtype=torch.uint8)

    def release(self, index: int) -> None:
        with self._news:
            del self._delivered[self._serial, index]

    def whole(self, serial: int) -> Delivered:
        """All buckets of a transfer at once, for an engine whose processes cannot take them one by one."""
        self.begin(serial, [])
        return Delivered([self.take(index) for index in range(self._count)])

    def close(self) -> None:
        self._delivered = {}


class Delivered:
    """Buckets that are all there."""

    def __init__(self, buckets: list[Tensor]) -> None:
        self._buckets = buckets

    def begin(self, serial: int, sizes: list[int]) -> None:
        pass

    def take(self, index: int) -> Tensor:
        return self._buckets[index]

    def release(self, index: int) -> None:
        pass

    def close(self) -> None:
        self._buckets = []
