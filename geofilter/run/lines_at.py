"""Some lines of a large file, without a look at the others."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import numpy as np

from geofilter.arrays import Positions
from geofilter.errors import RunError
from geofilter.files import ordinary
from geofilter.together import BUFFER

_NEWLINE = ord("\n")


def lines_at(handle: IO[bytes], wanted: Positions) -> Iterator[tuple[int, bytes]]:
    """The given lines (0-based, ascending), each with its number; those that there are not are left out.

    Args:
        handle: unbuffered, at its beginning.
    """
    first, done, rest = 0, 0, b""
    while done < len(wanted):
        if not (data := handle.read(BUFFER)):
            if rest and wanted[done] == first:
                yield first, rest
            return
        data = rest + data
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == _NEWLINE) + 1
        stop = int(np.searchsorted(wanted, first + len(ends)))
        here = wanted[done:stop] - first
        starts = np.where(here > 0, ends[here - 1], 0).tolist() if len(here) else []
        for line, start, end in zip(here.tolist(), starts, ends[here].tolist(), strict=True):
            yield first + line, data[start:end]
        done, first, rest = stop, first + len(ends), data[ends[-1] :] if len(ends) else data


def believed_lines(
    path: Path, wanted: Positions, believe: Callable[[], object], damaged: Callable[[], RunError]
) -> Iterator[tuple[int, bytes]]:
    """The same of a file that is hashed meanwhile: before the last line is given it is known whether all of them can
    be believed.

    Args:
        believe: hashes the file, and raises what is to be raised where it is not as it was written.
        damaged: the error of a file that has fewer lines, or cannot be read to its end.

    Raises:
        RunError: one of these.
    """
    if not len(wanted):
        return
    n = 0
    with ThreadPoolExecutor(1) as hashing:
        believed = hashing.submit(believe)
        try:
            with ordinary(path).open("rb", buffering=0) as handle:
                for n, found in enumerate(lines_at(handle, wanted), start=1):
                    if n == len(wanted):
                        believed.result()
                    yield found
        except OSError:
            believed.result()
            raise damaged() from None
        believed.result()
        if n < len(wanted):
            raise damaged()
