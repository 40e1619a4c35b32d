"""The plan of a scan: which input lines each shard covers, where they stand, and their hash.

`plan.jsonl` in the run's folder has a shard a line, behind one that names the columns; all lines are as long, so that
any of them is found without reading the others, and a plan of a million shards is never in memory.
"""

from __future__ import annotations

import hashlib
import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import IO

from geofilter.config import ScanConfig
from geofilter.errors import RunError
from geofilter.files import atomic, from_json, json_text
from geofilter.rows.bounded import length_of
from geofilter.rows.lines import Entry, entries_of, read_from, read_lines
from geofilter.run.manifest import InputFile
from geofilter.run.names import PLAN

SHARD_BYTES = 1 << 20
"""a shard also ends at this many bytes of input, so that long rows do not make a long unit of resume"""
WIDTH = 256
"""bytes of a line: ten columns of at most 16 digits, but for the hash"""
NEAR = 10_000
"""lines that are passed over sooner than that a file is entered anew"""

Line = tuple[int, int, bytes]
"""position of its file, 1-based number, and the bytes"""
Ranges = Sequence[tuple[int, int]]
"""numbers of shards: from the first to before the second of each pair"""


@dataclass(frozen=True, slots=True)
class Work:
    """The lines of a shard, and where they stand; all that whoever reads them has to be told."""

    number: int
    """0-based, of the shard"""
    first: int
    """input lines before it, over all inputs"""
    n_lines: int
    n_bytes: int
    """of its lines"""
    before: int
    """bytes of all lines before it"""
    file: int
    """position of the input that its first line is in; it goes on in those behind that one"""
    line: int
    """lines of that input before it"""
    entry_row: int
    entry_at: int
    """where that input can be entered to get there, see `lines.Entry`"""
    sha256: str
    """of its lines, one behind the other"""

    @property
    def entry(self) -> Entry:
        """Where its first input can be entered."""
        return Entry(self.entry_row, self.entry_at)

    def to_json(self) -> list[int | str]:
        """Its fields, in their order."""
        return [getattr(self, name) for name in COLUMNS]


COLUMNS = tuple(field.name for field in fields(Work))


class Plan:
    """A plan that has been written."""

    def __init__(self, path: Path) -> None:
        """Take the file.

        Raises:
            RunError: it is not there, or not of the length that a plan has.
        """
        self.path = path
        try:
            size = path.stat().st_size
            with path.open("rb") as handle:
                head = handle.read(WIDTH)
        except OSError as error:
            raise self._damaged(error.strerror or str(error)) from None
        if head != _head() or size % WIDTH:
            raise self._damaged("not as it was written")
        self.n_shards = size // WIDTH - 1

    def read(self, ranges: Ranges) -> Iterator[Work]:
        """The shards of some numbers.

        Raises:
            RunError: the plan is damaged.
        """
        with self.path.open("rb") as handle:
            for start, stop in ranges:
                handle.seek((start + 1) * WIDTH)
                for number in range(start, min(stop, self.n_shards)):
                    yield self._parsed(handle.read(WIDTH), number)

    def __getitem__(self, number: int) -> Work:
        """A shard by its number."""
        return next(self.read([(number, number + 1)]))

    def n_bytes(self, ranges: Ranges) -> int:
        """Bytes of the lines of some shards."""
        ends = [(self[start], self[stop - 1]) for start, stop in ranges if start < stop]
        return sum(last.before + last.n_bytes - first.before for first, last in ends)

    def n_lines(self, ranges: Ranges) -> int:
        """Lines of some shards."""
        ends = [(self[start], self[stop - 1]) for start, stop in ranges if start < stop]
        return sum(last.first + last.n_lines - first.first for first, last in ends)

    def _parsed(self, line: bytes, number: int) -> Work:
        try:
            work = Work(*from_json(line))
            if work.number != number or not all(isinstance(v, int) for v in work.to_json()[:-1]):
                raise ValueError("not where it belongs")
        except (TypeError, ValueError) as error:
            raise self._damaged(f"line {number + 2}: {error}") from None
        return work

    def _damaged(self, why: str) -> RunError:
        return RunError(f"{self.path}: damaged ({why}); remove it, and the same geofilter scan makes it again")


class _Planner:
    """Divides input lines among shards as they are read."""

    def __init__(self, shard_rows: int, out: IO[bytes]) -> None:
        self._most, self._out = shard_rows, out
        self._number = self._first = self._before = 0
        self._begin()

    def _begin(self) -> None:
        self._lines = self._bytes = 0
        self._digest = hashlib.sha256()

    def add(self, file: int, line: int, data: bytes, entry: Callable[[], Entry]) -> None:
        """Take the next line.

        Args:
            line: lines of its file before it.
            entry: gives where its file can be entered to get to it.
        """
        if not self._lines:
            self._where = (file, line, *entry())
        self._lines, self._bytes = self._lines + 1, self._bytes + len(data)
        self._digest.update(data)
        if self._lines >= self._most or self._bytes >= SHARD_BYTES:
            self.end()

    def end(self) -> None:
        """End the shard, if it has begun."""
        if self._lines:
            where, sha = self._where, self._digest.hexdigest()
            work = Work(self._number, self._first, self._lines, self._bytes, self._before, *where, sha)
            self._out.write(_padded(json_text(work.to_json())))
            self._number += 1
            self._first, self._before = self._first + self._lines, self._before + self._bytes
            self._begin()


class Drafted:
    """Inputs that have been read once: what the manifest says of each, and their plan, which no folder has yet."""

    def __init__(self, files: list[InputFile], handle: IO[bytes]) -> None:
        self.files, self._handle = files, handle

    def write(self, folder: Path) -> Plan:
        """Put the plan into a run's folder."""
        self._handle.seek(0)
        with atomic(folder / PLAN) as out:
            shutil.copyfileobj(self._handle, out)
        return Plan(folder / PLAN)


def drafted(config: ScanConfig) -> Drafted:
    """Read the inputs: count their lines, hash them, and divide them among shards.

    Raises:
        InputError: one cannot be read, or has no rows.
    """
    out = tempfile.TemporaryFile()  # noqa: SIM115 - it goes when nothing holds it any more
    out.write(_head())
    planner = _Planner(config.shard_rows, out)
    files = [_described(i, path, config, planner) for i, path in enumerate(config.data)]
    planner.end()
    return Drafted(files, out)


def _described(position: int, path: str, config: ScanConfig, planner: _Planner) -> InputFile:
    digest, lines, size, at = hashlib.sha256(), 0, 0, 0
    entry = entries_of(Path(path))
    for line in read_lines(Path(path)):
        digest.update(line)
        if config.limit is None or lines < config.limit:
            size += len(line)
            planner.add(position, lines, line, partial(entry, lines, at))
            at += length_of(line)
        lines += 1
    rows = lines if config.limit is None else min(config.limit, lines)
    about: InputFile = {"path": path, "sha256": digest.hexdigest(), "lines": lines, "rows": rows, "bytes": size}
    if path in config.origins:
        about["origin"] = dict(config.origins[path])
    return about


def _head() -> bytes:
    return _padded(json_text(list(COLUMNS)))


def _padded(text: str) -> bytes:
    return text.encode().ljust(WIDTH - 1) + b"\n"


class Lines:
    """The lines of shards; those of shards that follow each other are read without a gap."""

    def __init__(self, files: Sequence[InputFile]) -> None:
        self._files = files
        self._file, self._line = -1, 0
        """the input that is read, and its lines that have been"""
        self._rows: Iterator[bytes] = iter(())

    def of(self, work: Work) -> list[Line]:
        """The lines of a shard.

        Raises:
            InputError: an input cannot be read.
            RunError: they are not those that were planned.
        """
        self._go_to(work)
        found, digest = list[Line](), hashlib.sha256()
        while len(found) < work.n_lines and self._file < len(self._files):
            wanted = min(work.n_lines - len(found), self._files[self._file]["rows"] - self._line)
            for data in itertools.islice(self._rows, wanted):
                self._line += 1
                digest.update(data)
                found.append((self._file, self._line, data))
                wanted -= 1
            if wanted:
                break
            if len(found) < work.n_lines:
                self._enter(self._file + 1, Entry())
        if digest.hexdigest() != work.sha256 or len(found) < work.n_lines:
            path = self._files[work.file]["path"]
            raise RunError(f"{path}: has changed since the scan began, at line {work.line + 1:,} or behind it; scan it "
                           "again, into another --run")  # fmt: skip
        return found

    def _go_to(self, work: Work) -> None:
        """Stand before a shard's first line."""
        gap = work.line - self._line if self._file == work.file else -1
        if gap < 0 or (gap > NEAR and self._line < work.entry.row):
            self._enter(work.file, work.entry)
        self._line += sum(1 for _ in itertools.islice(self._rows, work.line - self._line))

    def _enter(self, file: int, entry: Entry) -> None:
        self._file, self._line = file, entry.row
        if file < len(self._files):
            path = Path(self._files[file]["path"])
            self._rows = read_lines(path) if entry == Entry() else read_from(path, entry)
