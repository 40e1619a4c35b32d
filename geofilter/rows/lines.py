"""Data files as lines: each row of any format as the bytes of one JSON object."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from geofilter.errors import InputError
from geofilter.rows.formats import format_of


def read_lines(path: Path) -> Iterator[bytes]:
    """Every row of a data file: of JSONL the line, with its line ending; for other formats see their `rows`.

    Of a row that is too long what stands for it, see `bounded.Overlong`.

    Raises:
        InputError: no data file, one that is damaged, or one without rows, see `formats.format_of`.
    """
    rows = format_of(path).rows()
    first = next(rows, None)
    if first is None:
        raise InputError(f"{path}: has no rows; nothing to read")
    yield first
    yield from rows


def on_one_line(row: bytes) -> bytes:
    """A JSON object as one line without its line ending; breaks between its parts become spaces."""
    return row.strip(b"\r\n").replace(b"\r", b" ").replace(b"\n", b" ")
