"""Leaves a daemon that holds every inherited descriptor open, so that a grader waiting for end of file hangs."""

import os
import time

if os.fork() == 0:
    os.setsid()
    time.sleep(1000)
    os._exit(0)
os._exit(0)


def add(a, b):
    return 0
