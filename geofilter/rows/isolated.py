"""Rows of Parquet and Arrow files, decoded in a process of its own: a file made to harm takes that down at most."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

from geofilter.apart import NO_MEMORY, end, limit_memory, limit_time, ran_out_of, start
from geofilter.errors import InputError
from geofilter.rows.bounded import bounded_lines
from geofilter.rows.packing import FREE, FREE_ROWS, MOST_TIMES, ROWS_PER_BYTE

SECONDS = 60
"""of computing, for as many rows as are held at once"""
_REFUSED = b"!"
"""begins the line that says why a file is refused; rows begin with a bracket"""


def isolated(path: Path, kind: str, group: int = 0) -> Iterator[bytes]:
    """The rows of a file as JSON lines, one that is too long as `Overlong`.

    Args:
        kind: of `decode.KINDS`.
        group: the row group of a Parquet file to begin with.

    Raises:
        InputError: it is refused, see the `decoded` of its format, or it takes too much memory or time.
    """
    process = start("rows.decode", kind, str(path), str(group))
    try:
        assert process.stdout is not None
        most = max(FREE, MOST_TIMES * path.stat().st_size)
        for line in bounded_lines(process.stdout, None):
            if line.startswith(_REFUSED):
                raise InputError(json.loads(line[1:]))
            most -= len(line)
            if most < 0:
                raise InputError(
                    f"{path}: holds text of over {MOST_TIMES:,} times its size, as a file does that is made to fill "
                    "disk or memory; write its rows as JSONL if you trust it"
                )
            yield line
        if code := process.wait():
            raise InputError(
                f"{path}: cannot be read as {kind} ({ran_out_of(code)}); get a complete copy, or write it again with "
                "smaller pages and values"
            )
    finally:
        end(process)


def refuse_more_rows(path: Path, rows: int) -> None:
    """Refuse a file with more rows than one of its size has.

    Raises:
        InputError: it has.
    """
    if rows > max(FREE_ROWS, ROWS_PER_BYTE * path.stat().st_size):
        raise InputError(
            f"{path}: has {rows:,} rows in {path.stat().st_size:,} bytes, so that they hold next to nothing; get a "
            "complete copy, or write it again without empty rows"
        )


def send(rows: Iterable[bytes], out: IO[bytes]) -> int:
    """Write the rows of a file for `isolated`, in a process that may be ended; return its exit code."""
    limit_memory()
    limit_time(SECONDS)
    try:
        try:
            for number, row in enumerate(rows):
                if number % 1000 == 0:
                    limit_time(SECONDS)
                out.write(row)
        except InputError as error:
            out.write(_REFUSED + json.dumps(str(error)).encode() + b"\n")
        out.flush()
    except MemoryError:
        return NO_MEMORY
    except BrokenPipeError:  # who reads has seen enough
        sys.stdout = sys.stderr
    return 0
