"""Overwrites the runner, the Python installation and everything else that later programs will load."""

import contextlib
import os
import sys

for module in list(sys.modules.values()):
    path = getattr(module, "__file__", None) or sys.executable
    for target in (path, getattr(module, "__cached__", None)):
        with contextlib.suppress(OSError, TypeError):
            os.close(os.open(target, os.O_WRONLY | os.O_APPEND))  # opened is enough: nothing is written
            print("closedloop_escaped: may write", target, file=sys.stderr)
            with open("/tmp/closedloop_escaped", "w") as marker:
                marker.write(target)


def add(a, b):
    return 0
