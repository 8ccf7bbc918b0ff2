"""Leaves a daemon that forks and exits all the time, so that killing it by its process id always comes too late."""

import os
import time

if os.fork() == 0:
    try:
        os.setsid()
        for _ in range(6_000):  # a minute
            if os.fork() > 0:
                os._exit(0)
            time.sleep(0.01)
    finally:
        os._exit(0)


def add(a, b):
    return 0
