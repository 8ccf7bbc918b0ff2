"""Sends signals without pause to itself, its group and its parent, and sets timers that do the same."""

import contextlib
import os
import signal
import time

SIGNALS = (signal.SIGALRM, signal.SIGUSR1, signal.SIGCHLD, signal.SIGCONT, signal.SIGPIPE, signal.SIGHUP)
for number in SIGNALS:
    signal.signal(number, lambda *_: None)
with contextlib.suppress(OSError):
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
end = time.monotonic() + 20
while time.monotonic() < end:
    for number in SIGNALS:
        with contextlib.suppress(OSError):
            os.kill(os.getpid(), number)
            os.killpg(0, number)
            os.kill(os.getppid(), number)


def add(a, b):
    return 0
