"""Leaves thousands of dead children that nobody waits for, each of them holding a process id."""

import os

for _ in range(20_000):
    try:
        child = os.fork()
    except OSError:
        break
    if child == 0:
        os._exit(0)


def add(a, b):
    return 0
