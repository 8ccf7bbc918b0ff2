"""Returns an integer of a hundred million digits, which takes hours to write in decimal."""

import sys

sys.set_int_max_str_digits(0)


def add(a, b):
    return 1 << 330_000_000
