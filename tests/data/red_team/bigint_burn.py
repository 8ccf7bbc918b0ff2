"""Burns time inside a single C call, which no Python signal handler can interrupt."""


def add(a, b):
    return 0 * 7 ** (10**9)
