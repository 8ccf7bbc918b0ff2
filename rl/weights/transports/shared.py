"""Buffers that a trainer rank shares with the engines on its GPU: nothing travels, only word that a buffer is full.

Without GPUs the buffers are shared memory of the machine, so that the same protocol runs, and is tested, there.
"""

from __future__ import annotations

import io
import pickle
from multiprocessing.shared_memory import SharedMemory

import torch
from torch import Tensor

from rl.weights.transports.base import BUFFERS, Meeting, Route, Seat, synchronise


class SharedSender:
    """A trainer rank whose buffers are read by the engine processes on its GPU."""

    def __init__(self, route: Route, rank: int, device: torch.device) -> None:
        self._meeting = Meeting(route)
        self._device, self._rank = device, rank
        self._readers = route.readers[rank]
        self._segments: list[SharedMemory] = []
        self._buffers = [self._allocate(route.buffer_bytes) for _ in range(BUFFERS)]
        self._serial = 0
        self._shipped = 0

    def _allocate(self, nbytes: int) -> Tensor:
        if self._device.type == "cuda":
            return torch.empty(nbytes, dtype=torch.uint8, device=self._device)
        segment = SharedMemory(create=True, size=nbytes)
        self._segments.append(segment)
        return torch.frombuffer(segment.buf, dtype=torch.uint8, count=nbytes)

    def handles(self) -> list[bytes]:
        """What another process of this machine opens the buffers by."""
        if self._device.type == "cuda":
            from torch.multiprocessing.reductions import reduce_tensor

            return [pickle.dumps(reduce_tensor(buffer)) for buffer in self._buffers]
        return [segment.name.encode() for segment in self._segments]

    def begin(self, serial: int) -> None:
        self._serial, self._shipped = serial, 0

    def buffer(self, index: int) -> Tensor:
        self._await_release(index - BUFFERS)
        return self._buffers[index % BUFFERS]

    def ship(self, index: int, nbytes: int) -> None:
        synchronise(self._device)
        self._meeting.store.set(_key(self._serial, self._rank, index, "full"), "1")
        self._shipped = index + 1

    def finish(self) -> None:
        for index in range(max(0, self._shipped - BUFFERS), self._shipped):
            self._await_release(index)

    def _await_release(self, index: int) -> None:
        if index < 0:
            return
        keys = [_key(self._serial, self._rank, index, f"free/{reader}") for reader in range(self._readers)]
        self._meeting.until(lambda: self._meeting.store.check(keys), f"the engines to load bucket {index}")
        for key in [*keys, _key(self._serial, self._rank, index, "full")]:
            self._meeting.store.delete_key(key)

    def close(self) -> None:
        self._buffers = []
        for segment in self._segments:
            segment.unlink()


class SharedReceiver:
    """A process of an engine."""

    def __init__(self, route: Route, seat: Seat, device: torch.device) -> None:
        self._meeting = Meeting(route)
        self._seat, self._device = seat, device
        self._segments: list[SharedMemory] = []
        self._buffers = [self._open(handle, route.buffer_bytes) for handle in seat.handles]
        self._serial = 0
        self._sizes: list[int] = []

    def _open(self, handle: bytes, nbytes: int) -> Tensor:
        if self._device.type == "cuda":
            return _open_cuda(handle, self._device)
        segment = SharedMemory(name=handle.decode())
        self._segments.append(segment)
        return torch.frombuffer(segment.buf, dtype=torch.uint8, count=nbytes)

    def begin(self, serial: int, sizes: list[int]) -> None:
        self._serial, self._sizes = serial, sizes

    def take(self, index: int) -> Tensor:
        key = _key(self._serial, self._seat.rank, index, "full")
        self._meeting.until(lambda: self._meeting.store.check([key]), f"bucket {index}")
        return self._buffers[index % BUFFERS][: self._sizes[index]]

    def release(self, index: int) -> None:
        synchronise(self._device)
        self._meeting.store.set(_key(self._serial, self._seat.rank, index, f"free/{self._seat.reader}"), "1")

    def close(self) -> None:
        self._buffers = []


def _key(serial: int, rank: int, index: int, what: str) -> str:
    return f"{serial}/{rank}/{index}/{what}"


def _open_cuda(handle: bytes, device: torch.device) -> Tensor:
    """The tensor behind another process's handle. Its GPU may have another number here."""
    rebuild, arguments = pickle.load(io.BytesIO(handle))  # noqa: S301 - from our own trainer
    arguments = list(arguments)
    arguments[6] = device.index
    buffer: Tensor = rebuild(*arguments)
    return buffer
