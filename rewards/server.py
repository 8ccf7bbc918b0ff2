"""The process that reward workers are forked from: ``python -m rewards.server FD``, started by ``rewards.pool``.

It builds the reward once and then forks on demand, so a worker that had to be killed is replaced within milliseconds
however long the reward's imports take. It ends, and every worker with it, when its starter does.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import socket
import sys
from multiprocessing.connection import Connection
from typing import Any

from rewards.base import build_reward
from rewards.scoring import evaluate
from rl.protocols import RewardFunction

_PR_SET_PDEATHSIG = 1
NICENESS = 10


def main() -> None:
    control = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        message, fds, _, _ = socket.recv_fds(control, 64, 1)
        if not message:
            return
        with Connection(fds[0]) as pipe:
            _answer(message, pipe, control)


def _answer(message: bytes, pipe: Connection, control: socket.socket) -> None:
    """``build``: the pipe brings the settings and gets None or what is wrong. ``fork``: it becomes a new worker's."""
    if message == b"build":
        spec, memory_mib = pipe.recv()
        try:
            _STATE.update(function=build_reward(spec), memory_mib=memory_mib)
            pipe.send(None)
        except ValueError as error:
            pipe.send(str(error))
        return
    _forget_the_dead()
    child = os.fork()
    if child == 0:
        control.close()
        try:
            _serve(pipe, _STATE["function"], _STATE["memory_mib"])
        finally:
            os._exit(0)


_STATE: dict[str, Any] = {}


def _forget_the_dead() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def _serve(pipe: Connection, function: RewardFunction, memory_mib: int) -> None:
    """A worker's life: one score per call until the pipe closes."""
    os.setsid()
    # On shared cores sampling comes first: its threads wait for each other, so one that is pushed aside stops them all.
    os.nice(NICENESS)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _limit_memory(memory_mib)
    pipe.send(os.getpid())
    while True:
        try:
            task, rollout = pipe.recv()
        except (EOFError, OSError):
            return
        pipe.send(evaluate(function, task, rollout))


def _limit_memory(memory_mib: int) -> None:
    with open("/proc/self/statm") as file:  # noqa: PTH123 - the quickest way to one number
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + memory_mib * 2**20, resource.RLIM_INFINITY))


if __name__ == "__main__":
    main()
