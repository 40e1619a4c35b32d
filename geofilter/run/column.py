"""Arrays of a safetensors file that are read where they are needed: some rows, or all of them piece by piece."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import Bools, Positions, check_kind
from geofilter.errors import RunError
from geofilter.files import ordinary
from geofilter.run.tensors import said_of

PIECE = 1 << 16
"""rows that are read at once"""
_KINDS = {
    "BOOL": np.bool_, "U8": np.uint8, "F16": np.float16, "I32": np.int32, "F32": np.float32, "F64": np.float64,
    "I64": np.int64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Source:
    """The file of some columns, as it was when it was held against its hash."""

    path: Path
    stat: tuple[int, int]
    """size and time of the last change"""
    refuse: Callable[[str], RunError]
    """the error of a file that is not believed any more, of what is wrong"""


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """An array of n rows. It holds nothing; what it gives is read from the file then.

    Raises:
        RunError: the file has changed since it was believed, or cannot be read; all that reads.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    source: Source
    start: int
    """byte of the file at which it begins"""

    def __len__(self) -> int:
        return self.shape[0]

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Its rows from `start` up to `stop`."""
        out = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        if not out.size:
            return out
        path, stat, refuse = self.source.path, self.source.stat, self.source.refuse
        try:
            with ordinary(path).open("rb", buffering=0) as handle:
                handle.seek(self.start + start * (out.nbytes // len(out)))
                into = out.data.cast("B")
                done = 0
                while done < out.nbytes and (n := handle.readinto(into[done:])):
                    done += n
                now = os.fstat(handle.fileno())
        except OSError as error:
            raise refuse(f"cannot be read ({error.strerror or error})") from None
        if (now.st_size, now.st_mtime_ns) != stat or done < out.nbytes:
            raise refuse("has changed while it was read")
        return out

    def pieces(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[slice, npt.NDArray[Any]]]:
        """Its rows in order, many at a time, each time with their places."""
        stop = len(self) if stop is None else stop
        for first in range(start, stop, PIECE):
            here = slice(first, min(first + PIECE, stop))
            yield here, self.read(here.start, here.stop)

    def whole(self) -> npt.NDArray[Any]:
        """All of it."""
        return self.read(0, len(self))

    def each(self, kind: Any, of: Callable[[npt.NDArray[Any]], Any]) -> npt.NDArray[Any]:
        """What a function makes of its rows (n,), as numbers of a type."""
        out = np.empty(len(self), kind)
        for here, rows in self.pieces():
            out[here] = of(rows)
        return out

    def where(self, test: Callable[[npt.NDArray[Any]], Any]) -> Bools:
        """Which rows (n,) a test is true of."""
        return self.each(np.bool_, test)

    def take(self, rows: Positions) -> npt.NDArray[Any]:
        """Some rows, in the order in which they are given; the file is read once from the first to the last."""
        rows = np.asarray(rows, np.int64)
        if len(rows) > 1 and (np.diff(rows) < 0).any():
            order = np.argsort(rows, kind="stable")
            out = np.empty((len(rows), *self.shape[1:]), self.dtype)
            out[order] = self.take(rows[order])
            return out
        out = np.empty((len(rows), *self.shape[1:]), self.dtype)
        first = 0
        while first < len(rows):
            low = int(rows[first])
            stop = int(np.searchsorted(rows, low + PIECE))
            out[first:stop] = self.read(low, int(rows[stop - 1]) + 1)[rows[first:stop] - low]
            first = stop
        return out

    def check(self, kind: type, sizes: Sequence[int | None], wanted: object) -> None:
        """Refuse rows that are not what was written, or that are not what is computed with.

        Args:
            kind: element type.
            sizes: of its dimensions; None for one that may be any.
            wanted: the hash of it, see `arrays.array_sum`.

        Raises:
            ValueError: what is wrong, see `arrays.check_array`.
        """
        digest, wrong = hashlib.sha256(f"{self.dtype.str} {self.shape} ".encode()), ""
        for here, rows in self.pieces() if self.shape else ():
            digest.update(rows.data if rows.size else b"")
            if not wrong and rows.dtype.kind == "f" and not (finite := np.isfinite(rows)).all():
                place = np.argwhere(~finite)[0].tolist()
                wrong = f"{self.name}[{', '.join(map(str, [here.start + place[0], *place[1:]]))}] is not finite"
        if digest.hexdigest() != wanted:
            raise ValueError(f"{self.name} is not what was written")
        check_kind(self.name, self.dtype, self.shape, kind, sizes)
        if wrong:
            raise ValueError(wrong)


def columns_of(source: Source, names: Iterable[str] | None = None) -> tuple[dict[str, Column], dict[str, Any]]:
    """The arrays of a file that `tensors` has written, and the hashes that they are to have; see `Column.check`.

    Args:
        names: of those that are wanted; all if None.

    Raises:
        OSError, SafetensorError: the file cannot be read.
        KeyError: an array is missing.
        ValueError: what is said of the arrays is not what was written.
    """
    sums = said_of(source.path)
    with ordinary(source.path).open("rb") as handle:
        size = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(size))  # safetensors has checked it
    found = {
        name: Column(name, np.dtype(_KINDS[of["dtype"]]), tuple(of["shape"]), source, 8 + size + of["data_offsets"][0])
        for name, of in header.items()
        if name in (header.keys() - {"__metadata__"} if names is None else names)
    }
    for name in sums if names is None else names:
        if name not in found:
            raise KeyError(name)
    return found, sums
