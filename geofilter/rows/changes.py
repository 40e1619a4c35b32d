"""Rows that are written otherwise than they stand in their file, for the formats whose rows are no lines of it."""

from __future__ import annotations

from collections.abc import Iterable

AS_LINES = "write lines instead, with --out NAME.jsonl"
"""what to do where a format cannot hold a change"""


class Changes:
    """New records of some rows, taken in step with the rows that are written.

    Args:
        rows: number of each row (0-based, ascending), and the JSON object that takes its place.
    """

    def __init__(self, rows: Iterable[tuple[int, bytes]] = ()) -> None:
        self._rows = iter(rows)
        self._next = next(self._rows, None)

    def at(self, number: int) -> bytes | None:
        """The record of a row, if that is the next one that changes."""
        if self._next is None or self._next[0] != number:
            return None
        record, self._next = self._next[1], next(self._rows, None)
        return record

    def within(self, start: int, stop: int) -> list[tuple[int, bytes]]:
        """Those of the rows from one to before another, counted from the first of these."""
        found = []
        while self._next is not None and self._next[0] < stop:
            found.append((self._next[0] - start, self._next[1]))
            self._next = next(self._rows, None)
        return found
