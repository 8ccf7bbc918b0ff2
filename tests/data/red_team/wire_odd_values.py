"""Replies with tagged values that a decoder may choke on: impossible numbers, references to nothing, false types."""

import itertools
import json
import os
import struct

ODD = [
    {"decimal": "sNaN"},
    {"fraction": [0, 0]},
    {"range": [0, 10**18, 1]},
    {"decimal": "1e999999999"},
    {"int": "f" * 4_000_000},
    {"set": [{"list": []}]},
    {"reference": -1, "type": "int", "exceptions": []},
    {"reference": 0, "type": "type", "exceptions": ["AssertionError", "object"]},
]
odd = itertools.cycle(ODD)


def add(a, b):
    data = json.dumps({"value": {"result": next(odd), "changed": []}}).encode()
    os.write(3, struct.pack("!I", len(data)) + data)
    return 0
