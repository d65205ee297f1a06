"""A set of numbers that lie close together, a bit for each: a million take an eighth of a megabyte. Pure."""

from __future__ import annotations


class Marks:
    """Which of the numbers from `first` to `last` were marked."""

    def __init__(self, first: int, last: int) -> None:
        self._first = first
        self._bits = bytearray(max(0, last - first) // 8 + 1)

    def add(self, number: int) -> None:
        """Mark one; a number outside of the range is left alone."""
        place = number - self._first
        if 0 <= place < 8 * len(self._bits):
            self._bits[place >> 3] |= 1 << (place & 7)

    def __contains__(self, number: int) -> bool:
        place = number - self._first
        return 0 <= place < 8 * len(self._bits) and bool(self._bits[place >> 3] & 1 << (place & 7))
