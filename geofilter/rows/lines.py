"""Data files as lines: each row of any format as the bytes of one JSON object."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from geofilter.errors import InputError
from geofilter.rows.formats import Jsonl, format_of

_NEWLINE = ord("\n")


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
