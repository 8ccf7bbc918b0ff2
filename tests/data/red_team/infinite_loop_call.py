"""Loads at once and never returns from the call."""


def add(a, b):
    while True:
        a, b = b, a
