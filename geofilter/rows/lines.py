"""Data files as lines: each row of any format as the bytes of one JSON object."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from geofilter.errors import InputError
from geofilter.rows.formats import Jsonl, format_of
from geofilter.rows.parquet import Parquet

_NEWLINE = ord("\n")


class Entry(NamedTuple):
    """Where the rows of a data file may be read from, without what stands before them."""

    row: int = 0
    """rows before it"""
    at: int = 0
    """its byte in a file of lines, its row group in a Parquet file"""


class Block(NamedTuple):
    """Rows of a data file that follow each other."""

    data: bytes
    ends: list[int]
    """where each row ends in it"""

    def rows(self, start: int, stop: int) -> bytes:
        """Those from one to before another one (0-based), in one piece."""
        return self.data[self.ends[start - 1] if start else 0 : self.ends[stop - 1] if stop else 0]


def read_lines(path: Path) -> Iterator[bytes]:
    """Every row of a data file: of JSONL the line, with its line ending; for other formats see their `rows`.

    Of a row that is too long what stands for it, see `bounded.Overlong`.

    Raises:
        InputError: no data file, one that is damaged, or one without rows, see `formats.format_of`.
    """
    rows = format_of(path).rows()
    first = next(rows, None)
    if first is None:
        raise no_rows(path)
    yield first
    yield from rows


def read_from(path: Path, entry: Entry) -> Iterator[bytes]:
    """The rows of `read_lines` from an entry on, see `entries_of`.

    Raises:
        InputError: see `read_lines`.
    """
    found = format_of(path)
    return found.rows(entry.at) if isinstance(found, Jsonl | Parquet) else found.rows()


def entries_of(path: Path) -> Callable[[int, int], Entry]:
    """What gives the last entry at or before a row, of the rows before it and their bytes.

    A file of lines can be entered at each of them, a Parquet file at its row groups, any other at its beginning.

    Raises:
        InputError: see `read_lines`.
    """
    found = format_of(path)
    if isinstance(found, Jsonl) and not found.packed:
        return Entry
    if isinstance(found, Parquet):
        groups = found.groups()

        def of_group(row: int, _: int) -> Entry:
            group = bisect_right(groups, row) - 1
            return Entry(groups[group], group)

        return of_group
    return lambda row, at: Entry()


def no_rows(path: Path) -> InputError:
    """The error of a data file without any."""
    return InputError(f"{path}: has no rows; nothing to read")


def read_blocks(path: Path) -> Iterator[Block]:
    """The rows of `read_lines`, many at once where they are the file's own lines, else one at a time.

    Raises:
        InputError: see `read_lines`.
    """
    found = format_of(path)
    if not isinstance(found, Jsonl):
        yield from (Block(row, [len(row)]) for row in read_lines(path))
        return
    empty = True
    for data in found.blocks():
        empty = False
        yield Block(data, line_ends(data))
    if empty:
        raise no_rows(path)


def line_ends(data: bytes) -> list[int]:
    """Where each line of some ends, its line ending included; the last one may have none."""
    ends: list[int] = (np.flatnonzero(np.frombuffer(data, np.uint8) == _NEWLINE) + 1).tolist()
    return ends if data.endswith(b"\n") or not data else [*ends, len(data)]


def on_one_line(row: bytes) -> bytes:
    """A JSON object as one line without its line ending; breaks between its parts become spaces."""
    return row.strip(b"\r\n").replace(b"\r", b" ").replace(b"\n", b" ")
