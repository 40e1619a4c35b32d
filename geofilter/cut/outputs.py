"""Writing a cut: the kept, removed and quarantined rows of every input."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Protocol

import numpy as np

from geofilter.arrays import Bools, Positions
from geofilter.cut.noted import NotedRow, NotedRows
from geofilter.cut.notes import removed_line
from geofilter.cut.places import Outputs
from geofilter.errors import RunError
from geofilter.files import dumps
from geofilter.rows.formats import Jsonl, format_of
from geofilter.rows.lines import Block, on_one_line
from geofilter.rows.reading import Reading
from geofilter.rows.records import Row, parse_line, row_sha256
from geofilter.run.column import Column
from geofilter.run.feature_sums import FeatureSums
from geofilter.run.manifest import InputFile, Quarantined, ScoreLine
from geofilter.run.names import LINES, QUARANTINE
from geofilter.run.rows import blocks_of
from geofilter.run.score_arrays import rows_of_files
from geofilter.run.store import Run
from geofilter.together import Together, mode_of


class RowWatcher(Protocol):
    """Is shown rows while they are written, so that the inputs and scores.jsonl are read once."""

    @property
    def wanted(self) -> Positions:
        """Scored rows that `row` is to be called for, ascending."""

    def row(self, position: int, line: ScoreLine, row: Row) -> None:
        """Take a wanted row; in input order."""

    def named(self, sums: FeatureSums) -> None:
        """Take what the removed rows name, once all rows are written."""


class Following:
    """The quarantined rows of a run, in step with its inputs; `taken` counts those that were found."""

    def __init__(self, records: Iterator[Quarantined]) -> None:
        """Take the records, in input order."""
        self._records, self.taken = records, 0
        self._next = next(records, None)

    def at(self, file: str, line: int) -> Quarantined | None:
        """The record of a line, if that is the next one."""
        found = self._next
        if found is None or (found["file"], found["line"]) != (file, line):
            return None
        self._next, self.taken = next(self._records, None), self.taken + 1
        return found

    def line_in(self, file: str) -> int:
        """The line of the next record; -1 where it is of another file, or there is none."""
        return -1 if self.done_with(file) or self._next is None else self._next["line"]

    def done_with(self, file: str) -> bool:
        """Whether no record of a file is left."""
        return self._next is None or self._next["file"] != file


@dataclass(frozen=True, eq=False)
class RowWriter:
    """Writes the rows of a run's inputs to where a cut puts them."""

    run: Run
    columns: Mapping[str, Column]
    """the run's scores, see `Run.columns`"""
    gone: Bools
    """(n,) the scored rows that are removed"""
    order: Positions
    """(n,) the scored rows, the highest score first"""
    watcher: RowWatcher | None = None

    @cached_property
    def _watched(self) -> Bools:
        watched = np.zeros(len(self.gone), bool)
        if self.watcher is not None:
            watched[self.watcher.wanted] = True
        return watched

    @cached_property
    def special(self) -> Bools:
        """Rows (n,) that need more than their bytes: removed ones, and those that are watched."""
        return self.gone | self._watched

    @cached_property
    def _reading(self) -> Reading:
        return self.run.reading

    def write(self, files: Together, plans: Sequence[Outputs]) -> list[Outputs]:
        """Write every input's rows.

        Args:
            files: what they appear with.
            plans: where those of each input go, see `places.planned`.

        Returns:
            the plans, with the counts of rows.

        Raises:
            InputError: an input cannot be read.
            RunError: it has changed since the scan, or the counts do not add up.
        """
        inputs = self.run.manifest["data"]
        scored = rows_of_files(self.columns["file"], len(inputs))
        # In input order, as the rows are written.
        aside = Following(self.run.quarantine())
        noted = NotedRows(self.run, self.gone, self._watched, self.order)
        with ExitStack() as stack:
            details = stack.enter_context(closing(noted.each()))
            opened = [
                plan.open(files, stack, mode_of([Path(info["path"])])) for plan, info in zip(plans, inputs, strict=True)
            ]
            written = [
                self._write_file(plan, handles, info, details, aside, scored[plan.index])
                for plan, handles, info in zip(plans, opened, inputs, strict=True)
            ]
            if next(details, None) is not None:
                raise self.run.damaged(LINES)
        if self.watcher is not None:
            self.watcher.named(noted.sums)
        return written

    def _write_file(
        self,
        plan: Outputs,
        handles: dict[str, IO[bytes]],
        info: InputFile,
        details: Iterator[NotedRow],
        aside: Following,
        scored: slice,
    ) -> Outputs:
        path, n_scored = info["path"], scored.stop - scored.start
        found, digest = format_of(Path(path)), hashlib.sha256()
        of_file = _OfFile(self, plan, handles, info, details, aside, scored, isinstance(found, Jsonl))
        for block in blocks_of(path):
            digest.update(block.data)
            of_file.add(block)
        if digest.hexdigest() != info["sha256"]:
            raise RunError(f"{path}: has changed since the scan; scan it again, then filter")
        if not of_file.as_scored:
            raise self.run.damaged(LINES)
        n_gone, n_bad = int(self.gone[scored].sum()), of_file.n_bad
        done = replace(plan, n_kept=int(of_file.keep.sum()), n_removed=of_file.n_removed, n_quarantined=n_bad)
        if not aside.done_with(path):
            raise self.run.damaged(QUARANTINE)
        passed = info["rows"] - n_scored - n_bad if self._reading.only else 0
        done.check(path, info["rows"], n_scored + passed - n_gone, n_gone, n_bad)
        if not plan.in_lines and not isinstance(found, Jsonl):
            found.write(of_file.keep, handles["kept"])
        return done

    def take(self, noted: NotedRow, number: int, line: bytes, out: IO[bytes]) -> bool:
        """Write a removed row and show a watched one; False where it is not the row that was scored."""
        position, note, text = noted
        if note.line != number:
            raise self.run.damaged(LINES)
        if row_sha256(line) != note.sha256:
            return False
        if self.gone[position]:
            out.write(removed_line(line, note.text))
        if text and self.watcher is not None:
            detail = self.run.parsed(text)
            row = parse_line(line, detail["file"], detail["line"], self._reading)
            if not isinstance(row, Row):
                return False
            self.watcher.row(position, detail, row)
        return True


class _OfFile:
    """The rows of one input, block by block: what stays between two rows that need a look goes in one piece.

    Args:
        writer: what is written, and where to.
        scored: where the input's scored rows stand among all.
        lines: its rows are its own lines, which are written as they are.
    """

    def __init__(
        self,
        writer: RowWriter,
        plan: Outputs,
        handles: dict[str, IO[bytes]],
        info: InputFile,
        details: Iterator[NotedRow],
        aside: Following,
        scored: slice,
        lines: bool,
    ) -> None:
        self._writer, self._plan, self._handles = writer, plan, handles
        self._info, self._details, self._aside, self._lines = info, details, aside, lines
        self.keep = np.zeros(info["rows"], bool)
        """(rows,) those that stay"""
        self.n_removed = self.n_bad = 0
        self.as_scored = True
        """whether all rows that were looked at are those that were scored"""
        self._is_scored = np.zeros(info["rows"], bool)
        for _, numbers in writer.columns["line"].pieces(scored.start, scored.stop):
            self._is_scored[numbers - 1] = True
        self._todo = self._special(scored)
        self._position, self._at = next(self._todo, (-1, -1))
        self._first = 1
        """number of the next block's first row"""

    def _special(self, scored: slice) -> Iterator[tuple[int, int]]:
        """Place among the scored rows, and line, of each row that needs a look."""
        for here, numbers in self._writer.columns["line"].pieces(scored.start, scored.stop):
            special = np.flatnonzero(self._writer.special[here])
            yield from zip((special + here.start).tolist(), numbers[special].tolist(), strict=True)

    def add(self, block: Block) -> None:
        """Take the next rows; those past --limit were not scanned, so they are in no output: every report says so."""
        first, number = self._first, self._first
        self._first += len(block.ends)
        end = min(self._first, self._info["rows"] + 1)
        while number < end:
            looked_at = (self._at, self._aside.line_in(self._info["path"]))
            stop = min((line for line in looked_at if line >= number), default=end)
            if stop > number:
                stop = min(stop, end)
                self._stay(block.rows(number - first, stop - first), number, stop)
                number = stop
            else:
                self._look(block.rows(number - first, number - first + 1), number)
                number += 1

    def _stay(self, rows: bytes, number: int, stop: int) -> None:
        self.keep[number - 1 : stop - 1] = True
        if self._plan.in_lines:
            self._handles["kept"].write(rows if self._lines else on_one_line(rows) + b"\n")

    def _look(self, line: bytes, number: int) -> None:
        """Take a row that is quarantined, removed or watched.

        Raises:
            RunError: the run says other things of it.
        """
        run = self._writer.run
        if (record := self._aside.at(self._info["path"], number)) is not None:
            if self._is_scored[number - 1]:
                raise run.damaged(QUARANTINE)
            self._handles["quarantined"].write(dumps(record))
            self.n_bad += 1
            return
        position = self._position
        noted = next(self._details, None)
        if noted is None or noted.position != position:
            raise run.damaged(LINES)
        self.as_scored &= self._writer.take(noted, number, line, self._handles["removed"])
        self._position, self._at = next(self._todo, (-1, -1))
        if self._writer.gone[position]:
            self.n_removed += 1
        else:
            self._stay(line, number, number + 1)
