"""Returns text that cannot be encoded, that drives a terminal, or that ends lines in unusual ways."""

TEXTS = ["\ud800", "\x00" * 4096, "\x1b[2J\x1b]0;passed\x07", "3\u2028\r\n\x85{}", "\u202e3"]


def add(a, b):
    return TEXTS[a % len(TEXTS)]
