"""Rows read from the inputs again, and checked to be those that were scored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import I32, Digests, Positions
from geofilter.errors import InputError, RunError
from geofilter.rows.lines import Block, read_blocks, read_lines
from geofilter.rows.reading import Reading
from geofilter.rows.records import Row, parse_line
from geofilter.run.manifest import InputFile
from geofilter.run.store import Run


@dataclass(frozen=True, slots=True, eq=False)
class RowPlaces:
    """Where the scored rows of a run stand, in input order."""

    file: I32
    """(n,) position of the row's file in the manifest's list"""
    line: Positions
    """(n,) 1-based"""
    sha256: Digests
    """(n, 32) of the row's bytes"""

    @classmethod
    def of(cls, run: Run) -> RowPlaces:
        """Of a finished run.

        Raises:
            RunError: its scores are missing or damaged.
        """
        arrays = run.arrays(cls.__slots__)
        return cls(arrays["file"], arrays["line"], arrays["sha256"])

    @classmethod
    def concat(cls, parts: Sequence[RowPlaces]) -> RowPlaces:
        """The rows of all parts, one after the other."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__slots__))


def find_row(run: Run, line: int, file: str | None) -> int:
    """The place among the scored rows (0-based) of a row.

    Raises:
        InputError: it was not scanned, was quarantined, or the line exists in several files.
    """
    arrays, paths = run.arrays(["file", "line"]), [f["path"] for f in run.manifest["data"]]
    found = np.flatnonzero(arrays["line"] == line).tolist()
    hits = [i for i in found if file in (None, paths[arrays["file"][i]])]
    if len(hits) > 1:
        files = ", ".join(paths[arrays["file"][i]] for i in hits)
        raise InputError(f"--row {line}: the run has several inputs; add --file with one of {files}")
    if not hits:
        for q in run.quarantine():
            if q["line"] == line and file in (None, q["file"]):
                raise InputError(f"{q['file']}, line {line}: not scored: {q['error']}")
        inputs = [f for f in run.manifest["data"] if file in (None, f["path"])]
        if not inputs:
            raise InputError(f"--file {file}: no input of the run {run.called}; give one of "
                             f"{', '.join(f['path'] for f in run.manifest['data'])}")  # fmt: skip
        if any(0 < line <= f["rows"] for f in inputs):
            raise InputError(f"--row {line}: passed over by --only, so it has no score")
        raise InputError(f"--row {line}: no such row in the run {run.called}; its rows are 1 to "
                         f"{max(f['rows'] for f in inputs):,}")  # fmt: skip
    return int(hits[0])


def lines_of(path: str) -> Iterator[bytes]:
    """The rows of an input, see `lines.read_lines`.

    Raises:
        InputError: it cannot be read, from the start or from some row on.
    """
    with _readable(path):
        yield from read_lines(Path(path))


def blocks_of(path: str) -> Iterator[Block]:
    """The same rows, many at once, see `lines.read_blocks`.

    Raises:
        InputError: see `lines_of`.
    """
    with _readable(path):
        yield from read_blocks(Path(path))


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def reread(details: Iterable[Mapping[str, Any]], reading: Reading) -> dict[tuple[str, int], Row]:
    """The rows that lines of scores.jsonl are about, by file and line.

    Args:
        reading: of the run, see `Run.reading`.

    Raises:
        InputError: an input is gone or damaged.
        RunError: an input has changed since the scan.
    """
    return {(row.file, row.line): row for row in reread_each(details, reading)}


def rows_at(run: Run, positions: Sequence[int]) -> dict[int, Row]:
    """Some of a finished run's scored rows (0-based), by their positions.

    Raises:
        InputError, RunError: see `reread`; its scores are missing or damaged.
    """
    found, files = run.columns(RowPlaces.__slots__), [info["path"] for info in run.manifest["data"]]
    file, line, sha256 = (found[name].take(np.array(positions, np.int64)) for name in RowPlaces.__slots__)
    details = [
        {"file": files[f], "line": n, "sha256": sha.tobytes().hex()}
        for f, n, sha in zip(file.tolist(), line.tolist(), sha256, strict=True)
    ]
    rows = reread(details, run.reading)
    return {at: rows[of["file"], of["line"]] for at, of in zip(positions, details, strict=True)}


def reread_each(details: Iterable[Mapping[str, Any]], reading: Reading) -> Iterator[Row]:
    """The same one after the other, in the order in which each file has them.

    Raises:
        InputError, RunError: see `reread`.
    """
    wanted: dict[str, dict[int, str]] = {}
    for detail in details:
        wanted.setdefault(detail["file"], {})[detail["line"]] = detail["sha256"]
    for file, hashes in wanted.items():
        number, changed = 0, None
        for number, line in enumerate(islice(lines_of(file), max(hashes)), start=1):
            if number in hashes:
                row = parse_line(line, file, number, reading)
                if isinstance(row, Row) and row.sha256 == hashes[number]:
                    yield row
                elif changed is None:
                    changed = number
        if max(hashes) > number:
            missing = min(n for n in hashes if n > number)
            raise RunError(f"{file}: has no line {missing} any more; scan it again")
        if changed is not None:
            raise RunError(f"{file}, line {changed}: has changed since the scan; scan it again")


def scored_rows(run: Run, places: RowPlaces | None = None) -> Iterator[Row]:
    """Every scored row of a run in input order, read from the inputs again.

    Args:
        places: of the rows, where they are known.

    Raises:
        InputError: an input is gone.
        RunError: an input has changed since the scan.
    """
    stand = _stand(run) if places is None else zip(places.file, places.line, places.sha256, strict=True)
    file, line, sha = next(stand, _NOWHERE)
    reading = run.reading
    for i, info in enumerate(run.manifest["data"]):
        digest = hashlib.sha256()
        for number, raw in enumerate(lines_of(info["path"]), start=1):
            digest.update(raw)
            if file == i and line == number:
                row = parse_line(raw, info["path"], number, reading)
                if not isinstance(row, Row) or row.sha256 != sha.tobytes().hex():
                    raise RunError(f"{info['path']}, line {number}: has changed since the scan; scan it again")
                yield row
                file, line, sha = next(stand, _NOWHERE)
        if digest.hexdigest() != info["sha256"]:
            raise RunError(f"{info['path']}: has changed since the scan; scan it again")


_NOWHERE = (-1, -1, np.zeros(32, np.uint8))
"""where no row stands"""


def _stand(run: Run) -> Iterator[tuple[Any, Any, npt.NDArray[np.uint8]]]:
    """What `RowPlaces` says of each scored row, read piece by piece."""
    columns = run.columns(RowPlaces.__slots__).values()
    for pieces in zip(*(column.pieces() for column in columns), strict=True):
        file, line, sha256 = (rows for _, rows in pieces)
        yield from zip(file.tolist(), line.tolist(), sha256, strict=True)


def check_unchanged(info: InputFile) -> None:
    """Refuse an input whose rows are not those that were scanned.

    Raises:
        InputError: it is gone.
        RunError: it has changed since the scan.
    """
    digest = hashlib.sha256()
    for line in lines_of(info["path"]):
        digest.update(line)
    if digest.hexdigest() != info["sha256"]:
        raise RunError(f"{info['path']}: has changed since the scan; scan it again")
