"""Crashes the interpreter with a segmentation fault and asks for a core file."""

import contextlib
import ctypes
import resource


def add(a, b):
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    return ctypes.string_at(0)
