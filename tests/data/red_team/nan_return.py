"""Returns values that break comparisons and plain JSON: not a number, infinities, minus zero."""

VALUES = [float("nan"), float("inf"), float("-inf"), -0.0, complex("nan+nanj")]


def add(a, b):
    return VALUES[(a + 1) % len(VALUES)]
