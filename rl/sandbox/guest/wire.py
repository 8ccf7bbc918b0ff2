"""Plain data over a socket, between two processes that do not trust each other.

Standard library only, and little of it, because every judged program waits for what is imported here: json's two C
functions without json (which takes re and enum along), and decimals and fractions only where a value is one.

A message is a length and JSON. Python's other literal types travel tagged; whatever is not plain data stays where it is
and travels as a reference. So nothing that arrives can run code, and an object that lies about equality arrives as a
reference, which equals nothing.
"""

import os

LARGEST = 16 * 2**20
HEAD = 4
"""Bytes of a message's length."""


class _Reading:
    """What ``json.JSONDecoder`` tells the scanner."""

    strict = True
    object_hook = object_pairs_hook = array_hook = None
    parse_float = float
    parse_int = int
    memo = {}  # noqa: RUF012 - the scanner's own cache

    @staticmethod
    def parse_constant(name):
        return {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}[name]


def _refuse(value):
    raise TypeError(f"not JSON: {type(value).__name__}")


try:
    import _json

    _scan = _json.make_scanner(_Reading)
    _encode = _json.make_encoder(None, _refuse, _json.encode_basestring_ascii, None, ":", ",", False, False, True)
except (ImportError, AttributeError, TypeError):  # an interpreter that is built otherwise
    import json

    _scan = json.JSONDecoder().scan_once

    def _encode(message, _indentation):
        return json.dumps(message)


class Descriptor:
    """A socket's two methods that messages need, for one that is only known by its number."""

    def __init__(self, number):
        self._number = number

    def recv(self, size):
        return os.read(self._number, size)

    def sendall(self, data):
        while data:
            data = data[os.write(self._number, data) :]


def send(link, message):
    data = "".join(_encode(message, 0)).encode()
    if len(data) > LARGEST:
        raise ValueError("message too large")
    link.sendall(len(data).to_bytes(HEAD, "big") + data)


def receive(link):
    """Next message. Raises ``EOFError`` at the end, ``ValueError`` for what is no message."""
    size = int.from_bytes(_read(link, HEAD), "big")
    if size > LARGEST:
        raise ValueError("message too large")
    try:
        message, end = _scan(_read(link, size).decode(), 0)
    except (RecursionError, StopIteration):
        raise ValueError("message is nested too deeply or no JSON") from None
    if not isinstance(message, dict) or end != size:
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
    if type(value).__module__ in ("decimal", "fractions") and type(value).__name__ in ("Decimal", "Fraction"):
        return {"number": [type(value).__name__, str(value)]}
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


def _exact(name, text):
    if name == "Decimal":
        from decimal import Decimal

        return Decimal(text)
    from fractions import Fraction

    return Fraction(text)


_MAKERS = {
    "int": lambda c, _: int(c, 16),
    "complex": lambda c, _: complex(*c),
    "bytes": lambda c, _: bytes.fromhex(c),
    "bytearray": lambda c, _: bytearray.fromhex(c),
    "range": lambda c, _: range(*c),
    "number": lambda c, _: _exact(*c),
    "list": lambda c, item: [item(x) for x in c],
    "tuple": lambda c, item: tuple(item(x) for x in c),
    "set": lambda c, item: {item(x) for x in c},
    "frozenset": lambda c, item: frozenset(item(x) for x in c),
    "dict": lambda c, item: {item(k): item(v) for k, v in c},
}
