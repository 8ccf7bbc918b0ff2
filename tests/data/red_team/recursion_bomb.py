"""Lifts the recursion limit and calls itself for ever."""

import sys

sys.setrecursionlimit(2**31 - 1)


def add(a, b):
    return add(b, a) - add(a, b)
