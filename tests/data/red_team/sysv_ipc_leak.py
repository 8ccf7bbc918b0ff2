"""Creates System V shared memory, queues and semaphores, which outlive every process of the program."""

import ctypes

IPC_CREAT = 0o1000
KEY = 0xC10500
libc = ctypes.CDLL(None, use_errno=True)
for number in range(8):
    libc.shmget(KEY + number, 1 << 20, IPC_CREAT | 0o666)
    libc.msgget(KEY + number, IPC_CREAT | 0o666)
    libc.semget(KEY + number, 1, IPC_CREAT | 0o666)


def add(a, b):
    return 0
