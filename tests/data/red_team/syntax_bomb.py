"""Makes the compiler work for ever on source that it builds, by nesting and by size."""

source = "(" * 90 + "0" + ")" * 90
for depth in (100, 10_000, 1_000_000):
    try:
        compile("-" * depth + "1", "deep", "eval")
        compile(f"{source}," * depth, "wide", "eval")
    except (SyntaxError, RecursionError, MemoryError):
        continue


def add(a, b):
    return eval("+".join(["0"] * 5_000_000))
