"""Replies with a set of numbers that all have the same hash, which takes the grader minutes to build."""

import json
import os
import struct

MODULUS = 2**61 - 1


def add(a, b):
    numbers = [number * MODULUS for number in range(200_000)]
    data = json.dumps({"value": {"result": {"set": numbers}, "changed": []}}).encode()
    os.set_blocking(3, True)
    message = struct.pack("!I", len(data)) + data
    while message:
        message = message[os.write(3, message) :]
    return 0
