"""Sleeps without using processor time, so that a limit on processor time never ends it."""

import time


def add(a, b):
    while True:
        time.sleep(1_000_000)
