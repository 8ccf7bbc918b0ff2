"""Broadcast by NCCL, or by gloo where there are no GPUs, in a group of its own beside whatever else a process uses."""

from __future__ import annotations

import ctypes
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rl.errors import TransferError
from rl.weights.transports.base import BUFFERS, Meeting, Route


def _join(meeting: Meeting, route: Route, rank: int, device: torch.device) -> Any:
    """The route's process group. Unlike ``init_process_group`` this leaves the process's default group alone."""
    # Later than our own deadline, whose error says more.
    timeout = timedelta(seconds=2 * route.deadline_s)
    if device.type == "cuda":
        options = dist.ProcessGroupNCCL.Options()
        options._timeout = timeout
        return dist.ProcessGroupNCCL(meeting.store, rank, route.size, options)
    return dist.ProcessGroupGloo(meeting.store, rank, route.size, timeout)


class _Member:
    """What both ends share: the group, two buffers, and the broadcast that last used each."""

    def __init__(self, route: Route, rank: int, device: torch.device) -> None:
        self._meeting = Meeting(route)
        self._device = device
        self._buffers = [torch.empty(route.buffer_bytes, dtype=torch.uint8, device=device) for _ in range(BUFFERS)]
        self._works: list[Any] = [None] * BUFFERS
        self._group = _join(self._meeting, route, rank, device)

    def _broadcast(self, index: int, nbytes: int) -> None:
        options = dist.BroadcastOptions()
        options.rootRank = options.rootTensor = 0
        self._works[index % BUFFERS] = self._group.broadcast([self._buffers[index % BUFFERS][:nbytes]], options)

    def _settle(self, index: int) -> None:
        """Let what follows on the device come after bucket ``index``'s broadcast; without a GPU, wait for it."""
        work = self._works[index % BUFFERS]
        if work is None:
            return
        if self._device.type != "cuda":
            self._meeting.until(work.is_completed, f"the broadcast of bucket {index}")
        try:
            work.wait()
        except RuntimeError as error:  # what both backends raise when another member is gone
            raise TransferError(f"the broadcast of bucket {index} failed: {error}") from error
        self._works[index % BUFFERS] = None

    def _drain(self) -> None:
        for index in range(BUFFERS):
            self._settle(index)
        if self._device.type == "cuda":
            done = torch.cuda.Event()
            done.record()
            self._meeting.until(done.query, "the last broadcasts")

    def close(self) -> None:
        if self._device.type == "cuda":
            self._group.abort()
        elif any(work is not None and not work.is_completed() for work in self._works):
            # gloo cannot end a broadcast whose other members are gone before its timeout, and stops the whole process
            # while it waits for that. So the group is left alive for ever: this reference is never given back.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._group))
        self._group = None
        self._buffers = []


class GroupSender(_Member):
    """The trainer's first rank."""

    def __init__(self, route: Route, device: torch.device) -> None:
        super().__init__(route, 0, device)

    def begin(self, serial: int) -> None:
        """A broadcast needs no number: each is the one after the last."""

    def buffer(self, index: int) -> Tensor:
        self._settle(index)
        return self._buffers[index % BUFFERS]

    def ship(self, index: int, nbytes: int) -> None:
        self._broadcast(index, nbytes)

    def finish(self) -> None:
        self._drain()


class GroupReceiver(_Member):
    """A process of an engine.

    Broadcasts are asked for as early as a buffer is free, so that the next one is under way while a bucket is loaded.
    """

    def __init__(self, route: Route, rank: int, device: torch.device) -> None:
        super().__init__(route, rank, device)
        self._sizes: list[int] = []

    def begin(self, serial: int, sizes: list[int]) -> None:
        self._sizes = sizes
        for index in range(min(BUFFERS, len(sizes))):
            self._broadcast(index, sizes[index])

    def take(self, index: int) -> Tensor:
        self._settle(index)
        return self._buffers[index % BUFFERS][: self._sizes[index]]

    def release(self, index: int) -> None:
        # NCCL's stream waits for what this one holds so far, loading included; without a GPU loading is done by now.
        if index + BUFFERS < len(self._sizes):
            self._broadcast(index + BUFFERS, self._sizes[index + BUFFERS])
        elif index + 1 == len(self._sizes):
            self._drain()
