"""The notes of a cut's rows, in input order; of many rows a process of its own makes them, while this one reads on."""

from __future__ import annotations

import json
import struct
import subprocess
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from queue import Empty, Queue
from threading import Thread
from typing import IO, Any, NamedTuple

import numpy as np

from geofilter.apart import end, end_unused, start, start_ahead
from geofilter.arrays import Bools, Positions
from geofilter.cut.notes import Note, Notes, note_of
from geofilter.errors import RunError
from geofilter.files import from_json
from geofilter.run.feature_sums import FeatureSums
from geofilter.run.names import LINES
from geofilter.run.store import Run

APART = 50_000
"""scored rows of a run from which on a process of its own is worth its start"""
AHEAD = 64
"""batches of rows that it may be ahead of this process"""
BATCH = 1 << 20
"""bytes of notes in one, about"""
ROWS = 1 << 16
"""rows whose ranks are numbers of Python at once"""
MODULE = "cut.notes_apart"
ROW = struct.Struct("<qqII64s")
"""a row of a batch: position, line, bytes of its note and of its text, sha256; these bytes follow all rows"""
COUNT, SIZE = struct.Struct("<q"), struct.Struct("<q")
"""rows of a batch, before them; and before that the bytes of a batch: of none, what comes last follows as a line"""
UNLIKE = (AttributeError, IndexError, KeyError, TypeError, ValueError, struct.error)
"""what reading a line raises that is not as scoring writes it"""


class Wanted(NamedTuple):
    """The m rows that need a look."""

    position: Positions
    """(m,) among the scored rows, ascending"""
    rank: Positions
    """(m,) 1 for the highest score; 0 for one that stays"""
    watched: Bools
    """(m,)"""

    def packed(self) -> Iterator[bytes | memoryview]:
        """For another process, piece by piece."""
        yield COUNT.pack(len(self.position))
        for array in (self.position.astype(np.int64, copy=False), self.rank.astype(np.int64, copy=False), self.watched):
            yield np.ascontiguousarray(array).data

    @classmethod
    def read(cls, handle: IO[bytes]) -> Wanted:
        """The other way round."""
        n = COUNT.unpack(handle.read(COUNT.size))[0]
        position, rank = (np.frombuffer(handle.read(8 * n), np.int64) for _ in range(2))
        return cls(position, rank, np.frombuffer(handle.read(n), np.bool_))

    def each(self) -> Iterator[tuple[int, bool]]:
        """Rank of each row, and whether it is watched."""
        for first in range(0, len(self.rank), ROWS):
            here = slice(first, first + ROWS)
            yield from zip(self.rank[here].tolist(), self.watched[here].tolist(), strict=True)


class NotedRow(NamedTuple):
    """A row that is removed or watched."""

    position: int
    """among the scored rows, 0-based"""
    note: Note
    """its text is empty for a row that stays"""
    text: bytes
    """its line of scores.jsonl; empty where it is not watched"""


class NotedRows:
    """The rows of a cut that need a look.

    Args:
        gone: (n,) the scored rows that are removed.
        watched: (n,) those whose lines are asked for.
        order: (n,) the scored rows, the highest score first.
    """

    def __init__(self, run: Run, gone: Bools, watched: Bools, order: Positions) -> None:
        self._run, self._gone, self._watched, self._order = run, gone, watched, order
        self.sums = FeatureSums()
        """of the removed rows, once all are given"""

    def each(self) -> Generator[NotedRow]:
        """Give them, ascending.

        Raises:
            RunError: scores.jsonl is missing or damaged; before the last one is given it is known that it is not.
        """
        wanted = self._wanted()
        if not len(wanted.position):
            return
        if len(self._gone) >= APART:
            with _process(self._run) as process:
                if (found := _line(process)) is not None:
                    self._run.believe(LINES, found["stat"], found["sum"])
                    yield from self._apart(process, wanted)
                    return
        notes = Notes(self.sums)
        for (position, text), (place, shown) in zip(self._run.score_texts(wanted.position), wanted.each(), strict=True):
            try:
                yield NotedRow(position, noted(notes, text, place), text if shown else b"")
            except UNLIKE:
                raise self._run.damaged(LINES) from None

    def _wanted(self) -> Wanted:
        position = np.flatnonzero(self._gone | self._watched)
        rank = np.zeros(len(self._gone), np.int64)
        rank[self._order] = np.arange(1, len(rank) + 1)
        rank[~self._gone] = 0
        return Wanted(position, rank[position], self._watched[position])

    def _apart(self, process: subprocess.Popen[bytes], wanted: Wanted) -> Iterator[NotedRow]:
        batches: Queue[bytes] = Queue(AHEAD)
        thread = Thread(target=_relay, args=(process, wanted, batches), daemon=True)
        thread.start()
        try:
            while batch := batches.get():
                yield from unpacked(batch)
            thread.join()
            last = _line(process)
        finally:
            end(process)
            while thread.is_alive():  # it may wait for room
                with suppress(Empty):
                    batches.get(timeout=0.1)
        if last is None:
            raise RunError(f"{self._run.path}: a process that reads its scores was ended; run the same command again")
        if last["damaged"]:
            raise self._run.damaged(LINES)
        self.sums = FeatureSums.from_json(last["sums"])


@contextmanager
def begun_ahead(run: Run) -> Iterator[None]:
    """Have the process that makes the notes of a cut, if there will be one, begin with what it needs no rows for."""
    if run.manifest["counts"]["scored"] >= APART:
        start_ahead(MODULE, str(run.path / LINES))
    try:
        yield
    finally:
        end_unused()


@contextmanager
def _process(run: Run) -> Iterator[subprocess.Popen[bytes]]:
    process = start(MODULE, str(run.path / LINES))
    try:
        yield process
    finally:
        end(process)


def _line(process: subprocess.Popen[bytes]) -> Any:
    """What a process says on a line; None where it has been ended."""
    assert process.stdout is not None
    with suppress(OSError, ValueError):
        return json.loads(process.stdout.readline())
    return None


def _relay(process: subprocess.Popen[bytes], wanted: Wanted, batches: Queue[bytes]) -> None:
    """Ask a process for rows, and hand on what it gives; an empty batch at the end."""
    assert process.stdin is not None
    assert process.stdout is not None
    with suppress(OSError, ValueError, struct.error):  # it has been ended
        for piece in wanted.packed():
            process.stdin.write(piece)
        process.stdin.flush()
        while size := SIZE.unpack(process.stdout.read(SIZE.size))[0]:
            if len(batch := process.stdout.read(size)) < size:
                break
            batches.put(batch)
    batches.put(b"")


def packed(rows: Sequence[NotedRow]) -> bytes:
    """Rows as one process sends them to another; of none the sign that no more come."""
    if not rows:
        return SIZE.pack(0)
    parts = [COUNT.pack(len(rows))]
    parts += [ROW.pack(at, note.line, len(note.text), len(text), note.sha256.encode()) for at, note, text in rows]
    for _, note, text in rows:
        parts += (note.text, text)
    batch = b"".join(parts)
    return SIZE.pack(len(batch)) + batch


def unpacked(batch: bytes) -> Iterator[NotedRow]:
    """The other way round, without the size that it begins with."""
    n = COUNT.unpack_from(batch)[0]
    at = COUNT.size + n * ROW.size
    for position, line, size, size_of_text, sha256 in ROW.iter_unpack(batch[COUNT.size : at]):
        middle = at + size
        after = middle + size_of_text
        yield NotedRow(position, Note(line, sha256.decode(), batch[at:middle]), batch[middle:after])
        at = after


def noted(notes: Notes, text: bytes, rank: int) -> Note:
    """The note of a row.

    Args:
        text: its line of scores.jsonl.
        rank: 0 for a row that stays.

    Raises:
        KeyError, TypeError, ValueError: it is no such line.
    """
    if rank:
        return notes.of(text, rank)
    return note_of(from_json(text), b"")
