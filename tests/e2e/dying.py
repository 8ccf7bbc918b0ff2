"""A run that kills its driver, or one of its trainer ranks, at a chosen point.

``python -m tests.e2e.dying VICTIM POINT COUNT ARGUMENT...`` is the command with these arguments. SIGKILL comes with the
COUNT-th call of the driver's function that POINT stands for; VICTIM is ``driver``, or the number of a trainer rank.
"""

import functools
import itertools
import os
import signal
import sys
import threading
import time

import psutil

from rl.joint import JointCollector
from rl.workers.calls import wait_all
from rl.workers.trainer_group import TrainerGroup
from scripts.cli import main


def during(function, victim, seconds):
    """Call the function and kill the victim so long after. Should the function end before, nobody is killed."""
    timer = threading.Timer(seconds, os.kill, [victim, signal.SIGKILL])
    timer.start()
    try:
        return function()
    finally:
        timer.cancel()


def after(function, victim, seconds):
    """Call the function and kill the victim so long after its end; the driver goes on with the result only then."""
    result = function()
    time.sleep(seconds)
    os.kill(victim, signal.SIGKILL)
    return result


POINTS = {
    # Either takes some 0.2 s at least.
    "sampling": (JointCollector, "collect", during, 0.1),
    "update": (TrainerGroup, "update", during, 0.05),
    # Engines wait for what the driver carries to them from these streams.
    "publish": (TrainerGroup, "stream", after, 0.05),
    # Written first of all that a checkpoint holds.
    "checkpoint": (TrainerGroup, "save", after, 0.0),
}


def choose(victim, group):
    """The process of that rank of the trainer, or of the driver; then its workers are printed, to be looked for."""
    if victim == "driver":
        found = psutil.Process().children(recursive=True)
        print("workers:", *[p.pid for p in found if "Worker" in p.name()], flush=True)
        return os.getpid()
    call = group._actors[int(victim)].__ray_call__.remote(lambda _: os.getpid())
    return wait_all({"victim": call}, deadline_s=60)[0]


def prepare(victim, point, count):
    owner, name, how, seconds = POINTS[point]
    function, calls = getattr(owner, name), itertools.count(1)

    @functools.wraps(function)
    def deadly(self, *arguments, **settings):
        call = functools.partial(function, self, *arguments, **settings)
        return how(call, choose(victim, self), seconds) if next(calls) == count else call()

    setattr(owner, name, deadly)


if __name__ == "__main__":
    prepare(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    sys.exit(main(sys.argv[4:]))
