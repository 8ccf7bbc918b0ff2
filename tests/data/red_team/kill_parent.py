"""Kills its parent before it can report, once when loaded and again when called."""

import contextlib
import os
import signal

parent = os.getppid()
with contextlib.suppress(OSError):
    os.kill(parent, signal.SIGKILL)


def add(a, b):
    os.kill(parent, signal.SIGKILL)
    return 0
