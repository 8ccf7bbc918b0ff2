"""Plain data over a socket, between two processes that do not trust each other. Standard library only.

A message is a length and JSON. Python's other literal types travel tagged; whatever is not plain data stays where it is
and travels as a reference. So nothing that arrives can run code, and an object that lies about equality arrives as a
reference, which equals nothing.
"""

import json
import struct
from decimal import Decimal
from fractions import Fraction

LARGEST = 16 * 2**20
_HEAD = struct.Struct("!I")


def send(link, message):
    data = json.dumps(message).encode()
    if len(data) > LARGEST:
        raise ValueError("message too large")
    link.sendall(_HEAD.pack(len(data)) + data)


def receive(link):
    """Next message. Raises ``EOFError`` at the end, ``ValueError`` for what is no message."""
    (size,) = _HEAD.unpack(_read(link, _HEAD.size))
    if size > LARGEST:
        raise ValueError("message too large")
    try:
        message = json.loads(_read(link, size))
    except RecursionError:
        raise ValueError("message nested too deeply") from None
    if not isinstance(message, dict):
        raise ValueError("message must be an object")
    return message


def _read(link, size):
    parts = []
    while size:
        part = link.recv(min(size, 2**16))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def pack(value, refer):
    """JSON for a value. ``refer`` makes a reference (a dict) for what is not plain data."""
    if value is None or isinstance(value, bool):
        return value
    for kind, plain in _SCALARS:
        if isinstance(value, kind):
            return plain(value)
    for kind, tag in _SEQUENCES:
        if isinstance(value, kind):
            return {tag: [pack(item, refer) for item in kind.__iter__(value)]}
    if isinstance(value, dict):
        return {"dict": [[pack(k, refer), pack(v, refer)] for k, v in dict.items(value)]}
    return refer(value)


_SCALARS = (
    (int, lambda v: {"int": hex(v)} if abs(v) > 2**1000 else int.__add__(v, 0)),
    (float, lambda v: float.__add__(v, 0.0)),
    (str, lambda v: str.__str__(v)),
    (complex, lambda v: {"complex": [v.real, v.imag]}),
    (bytes, lambda v: {"bytes": bytes.hex(v)}),
    (bytearray, lambda v: {"bytearray": bytearray.hex(v)}),
    (range, lambda v: {"range": [v.start, v.stop, v.step]}),
    (Decimal, lambda v: {"decimal": str(v)}),
    (Fraction, lambda v: {"fraction": [v.numerator, v.denominator]}),
)
_SEQUENCES = ((list, "list"), (tuple, "tuple"), (set, "set"), (frozenset, "frozenset"))


def unpack(data, resolve):
    """The value of what ``pack`` made. ``resolve`` turns a reference into an object."""
    if not isinstance(data, dict):
        if isinstance(data, list):
            raise ValueError("no such type")
        return data
    if len(data) == 1:
        ((tag, content),) = data.items()
        if tag in _MAKERS:
            return _MAKERS[tag](content, lambda item: unpack(item, resolve))
    return resolve(data)


_MAKERS = {
    "int": lambda c, _: int(c, 16),
    "complex": lambda c, _: complex(*c),
    "bytes": lambda c, _: bytes.fromhex(c),
    "bytearray": lambda c, _: bytearray.fromhex(c),
    "range": lambda c, _: range(*c),
    "decimal": lambda c, _: Decimal(c),
    "fraction": lambda c, _: Fraction(*c),
    "list": lambda c, item: [item(x) for x in c],
    "tuple": lambda c, item: tuple(item(x) for x in c),
    "set": lambda c, item: {item(x) for x in c},
    "frozenset": lambda c, item: frozenset(item(x) for x in c),
    "dict": lambda c, item: {item(k): item(v) for k, v in c},
}
