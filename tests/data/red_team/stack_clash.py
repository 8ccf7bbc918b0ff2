"""Recurses through C frames on an unlimited stack, to run it into its neighbour in memory."""

import contextlib
import ctypes
import resource
import sys

with contextlib.suppress(OSError, ValueError):
    resource.setrlimit(resource.RLIMIT_STACK, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
sys.setrecursionlimit(2**31 - 1)
PROTOTYPE = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_long)


@PROTOTYPE
def descend(depth):
    return descend(depth + 1)


def add(a, b):
    return descend(0) * 0
