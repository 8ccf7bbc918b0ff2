"""Replies with JSON and with tagged values nested as deep as a message may be long, to overflow a decoder's stack."""

import os
import struct

DEPTH = 500_000


def add(a, b):
    opening, closing = (b"[", b"]") if a > 0 else (b'{"list": [', b"]}")
    data = b'{"value": {"changed": [], "result": ' + opening * DEPTH + closing * DEPTH + b"}}"
    message = struct.pack("!I", len(data)) + data
    os.set_blocking(3, True)
    while message:
        message = message[os.write(3, message) :]
    return 0
