"""Returns a list and a dict that contain each other, which have no end as plain data."""


def add(a, b):
    values = [a]
    values.append({"again": values})
    return values
