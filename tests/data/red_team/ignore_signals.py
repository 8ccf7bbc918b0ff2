"""Ignores or blocks every signal that may be ignored, in itself and in a child, and never ends."""

import contextlib
import os
import signal
import time

for number in signal.valid_signals():
    with contextlib.suppress(OSError, ValueError):
        signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
with contextlib.suppress(OSError):
    os.fork()
time.sleep(1000)


def add(a, b):
    return 0
