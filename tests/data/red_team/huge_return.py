"""Returns a string of one gibibyte, and at the next call a list as large."""


def add(a, b):
    if a > 0:
        return "x" * (1 << 30)
    return [0] * (1 << 27)
