"""Sends its reply one byte a second, so that a limit counted from the last byte never ends."""

import os
import struct
import time


def add(a, b):
    os.write(3, struct.pack("!I", 1 << 20))
    while True:
        os.write(3, b" ")
        time.sleep(1)
