"""A few of many, from everywhere among them."""


def evenly(total: int, count: int) -> list[int]:
    """Positions of so many of ``total`` in a row, evenly spaced; all where there are fewer.

    The first of a row say little of it: rows are sorted, by class or by recording.
    """
    count = min(count, total)
    return [k * total // count for k in range(count)]
