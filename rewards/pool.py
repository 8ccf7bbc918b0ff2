"""Rewards in killable processes: each call has a deadline and a memory limit, and cannot block or break a run.

Workers are forked from a server process that has built the reward (``rewards.server``). Each is driven by a thread that
waits for its answer; the event loop only ever waits for threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

from rl.types import Fault, Rollout, Score, Task

BUILD_S = 300.0
"""Longest time for a reward to import what it needs."""
FORK_S = 30.0
"""Longest time until a forked worker is ready."""


class RewardPool:
    """Scores rollouts with the reward that ``spec`` names.

    Args:
        spec: the reward's configuration, with ``_target_``.
        workers: processes, and so calls at the same time.
        deadline_s: longest time for one call, counted from its start in a worker, not from when it was queued.
        memory_mib: what one worker may allocate beyond what it holds when it is ready.

    The reward is imported while the constructor's caller goes on; a reward that cannot be built raises ``ValueError``
    from ``ready``.

    """

    def __init__(self, spec: Mapping[str, Any], *, workers: int, deadline_s: float, memory_mib: int) -> None:
        self._deadline_s = deadline_s
        self._server = _Server(spec, memory_mib)
        self._workers: dict[int, _Worker] = {}
        self._closed = False
        self._threads = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="reward")

    def ready(self) -> None:
        """Wait until the reward is built. Raises ``ValueError`` if it cannot be."""
        self._server.ready()

    async def score(self, task: Task, rollout: Rollout) -> Score:
        """Score one rollout; a failure of the reward is in the score's ``fault``."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._call, task, rollout)

    def close(self) -> None:
        """End all workers now; calls still at work give faults."""
        self._closed = True
        for worker in list(self._workers.values()):
            worker.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._server.close()

    def _call(self, task: Task, rollout: Rollout) -> Score:
        thread = threading.get_ident()
        try:
            if thread not in self._workers:
                self._workers[thread] = self._server.fork()
        except (OSError, EOFError, ValueError) as error:
            return Score.failed(Fault.CRASH, f"no reward worker could be started: {error!r}")
        score = self._workers[thread].call(task, rollout, self._deadline_s)
        if score.fault in (Fault.TIMEOUT, Fault.MEMORY, Fault.CRASH) or self._closed:
            # Whatever such a call left behind in its process ends with it.
            self._workers.pop(thread).kill()
        return score


class _Server:
    """The server process and the socket to it."""

    def __init__(self, spec: Mapping[str, Any], memory_mib: int) -> None:
        self._control, far = socket.socketpair()
        self._lock = threading.Lock()
        paths = os.pathsep.join(p for p in sys.path if p)
        with far:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
                [sys.executable, "-m", "rewards.server", str(far.fileno())],
                pass_fds=[far.fileno()],
                stdin=subprocess.DEVNULL,
                env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            )
        self._building: Connection | None = self._ask(b"build")
        self._building.send((dict(spec), memory_mib))
        self._problem: str | None = None

    def _ask(self, message: bytes) -> Connection:
        near, far = socket.socketpair()
        with far:
            socket.send_fds(self._control, [message], [far.fileno()])
        return Connection(near.detach())

    def ready(self) -> None:
        with self._lock:
            if self._building is not None:
                building, self._building = self._building, None
                try:
                    with building:
                        self._problem = _receive(building, BUILD_S, "the reward's imports took too long")
                except (OSError, EOFError) as error:
                    self._problem = f"reward: the process that builds it ended or hung: {error!r}"
            if self._problem is not None:
                raise ValueError(self._problem)

    def fork(self) -> _Worker:
        self.ready()
        with self._lock:
            pipe = self._ask(b"fork")
        return _Worker(pipe, int(_receive(pipe, FORK_S, "a worker took too long to start")))

    def close(self) -> None:
        self._control.close()
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _receive(pipe: Connection, deadline_s: float, problem: str) -> Any:
    if not pipe.poll(deadline_s):
        raise OSError(f"{problem}: no answer within {deadline_s:.0f} s")
    return pipe.recv()


class _Worker:
    """One process and the pipe to it. Used by one thread."""

    def __init__(self, pipe: Connection, pid: int) -> None:
        self._pipe = pipe
        self._pid = pid

    def call(self, task: Task, rollout: Rollout, deadline_s: float) -> Score:
        try:
            self._pipe.send((task, rollout))
            if not self._pipe.poll(deadline_s):
                return Score.failed(Fault.TIMEOUT, f"no result within {deadline_s:g} s")
            score = self._pipe.recv()
        except (OSError, EOFError):
            return Score.failed(Fault.CRASH, "the process that ran the reward died")
        assert isinstance(score, Score)
        return score

    def kill(self) -> None:
        """End the process and everything it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, signal.SIGKILL)
        self._pipe.close()
