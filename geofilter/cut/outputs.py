"""Writing a cut: the kept, removed and quarantined rows of every input."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal, Protocol, get_args

import numpy as np
import numpy.typing as npt

from geofilter.arrays import Bools, Positions
from geofilter.cut.places import Outputs
from geofilter.errors import RunError
from geofilter.files import dumps
from geofilter.rows.formats import Jsonl, format_of
from geofilter.rows.json_array import BOM
from geofilter.rows.lines import Block, on_one_line
from geofilter.rows.reading import Reading
from geofilter.rows.records import Row, parse_line, row_sha256
from geofilter.run.manifest import InputFile, Quarantined, ScoreLine
from geofilter.run.names import LINES, QUARANTINE
from geofilter.run.reasons import reason
from geofilter.run.rows import blocks_of
from geofilter.run.store import Run
from geofilter.together import Together, mode_of

_NOTE = b', "geofilter": '
"""what follows a removed row's last field; a row without any is no row that is scored"""
_Noted = Literal["score", "percentile", "bank", "banks", "topic", "topics", "top_features", "common", "explained"]
_NOTED: tuple[_Noted, ...] = get_args(_Noted)
"""what of a score line is in a removed row's note, in this order"""
_SCORE_LINE = re.compile(
    rb'\{"file": "[^"]*", "line": \d+, "sha256": "[0-9a-f]{64}"'
    rb', ("score": [^,]+, "percentile": [^,]+, "bank": "[^"]*", "banks": \{(?:[^{}]*\{[^{}]*\})*\}'
    rb', "topic": (?:null|"[^"]*"), "topics": \{[^{}]*\}), "n_tokens": \d+, "response_tokens": \d+, "windows": \d+'
    rb'(, "top_features": \[.*\], "common": [^,]+, "explained": [^,}]+)(?:, "like": \{.*\})?\}\n'
)
"""a line of scores.jsonl as scoring writes it; its groups are these fields"""


class RowWatcher(Protocol):
    """Is shown rows while they are written, so that the inputs and scores.jsonl are read once."""

    @property
    def wanted(self) -> Positions:
        """Scored rows that `row` is to be called for, ascending."""

    def removed(self, line: ScoreLine) -> None:
        """Take the score line of a removed row; in input order."""

    def row(self, position: int, line: ScoreLine, row: Row) -> None:
        """Take a wanted row; in input order."""


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
    arrays: dict[str, npt.NDArray[Any]]
    """the run's score arrays"""
    gone: Bools
    """(n,) the scored rows that are removed"""
    rank: Positions
    """(n,) 1 for the highest score"""
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
        # In input order, as the rows are written.
        aside = Following(self.run.quarantine())
        details = self.run.score_texts(np.flatnonzero(self.special))
        with ExitStack() as stack:
            opened = [
                plan.open(files, stack, mode_of([Path(info["path"])])) for plan, info in zip(plans, inputs, strict=True)
            ]
            return [
                self._write_file(plan, handles, info, details, aside)
                for plan, handles, info in zip(plans, opened, inputs, strict=True)
            ]

    def _write_file(
        self,
        plan: Outputs,
        handles: dict[str, IO[bytes]],
        info: InputFile,
        details: Iterator[tuple[int, bytes]],
        aside: Following,
    ) -> Outputs:
        path, scored = info["path"], np.flatnonzero(self.arrays["file"] == plan.index)
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
        passed = info["rows"] - len(scored) - n_bad if self._reading.only else 0
        done.check(path, info["rows"], len(scored) + passed - n_gone, n_gone, n_bad)
        if not plan.in_lines and not isinstance(found, Jsonl):
            found.write(of_file.keep, handles["kept"])
        return done

    def take(self, position: int, number: int, line: bytes, text: bytes, out: IO[bytes]) -> bool:
        """Write a removed row and show a watched one; False where it is not the row that was scored.

        Args:
            text: its line of scores.jsonl.
        """
        detail = self.run.parsed(text)
        if detail.get("line") != number:
            raise self.run.damaged(LINES)
        if row_sha256(line) != detail["sha256"]:
            return False
        if self.gone[position]:
            out.write(removed_line(line, detail, int(self.rank[position]), text))
            if self.watcher is not None:
                self.watcher.removed(detail)
        if self._watched[position] and self.watcher is not None:
            row = parse_line(line, detail["file"], detail["line"], self._reading)
            if not isinstance(row, Row):
                return False
            self.watcher.row(position, detail, row)
        return True


class _OfFile:
    """The rows of one input, block by block: what stays between two rows that need a look goes in one piece.

    Args:
        writer: what is written, and where to.
        scored: the input's scored rows, ascending.
        lines: its rows are its own lines, which are written as they are.
    """

    def __init__(
        self,
        writer: RowWriter,
        plan: Outputs,
        handles: dict[str, IO[bytes]],
        info: InputFile,
        details: Iterator[tuple[int, bytes]],
        aside: Following,
        scored: Positions,
        lines: bool,
    ) -> None:
        self._writer, self._plan, self._handles = writer, plan, handles
        self._info, self._details, self._aside, self._lines = info, details, aside, lines
        self.keep = np.zeros(info["rows"], bool)
        """(rows,) those that stay"""
        self.n_removed = self.n_bad = 0
        self.as_scored = True
        """whether all rows that were looked at are those that were scored"""
        numbers = writer.arrays["line"]
        self._is_scored = np.zeros(info["rows"], bool)
        self._is_scored[numbers[scored] - 1] = True
        special = scored[writer.special[scored]]
        self._todo: Iterator[tuple[int, int]] = zip(special.tolist(), numbers[special].tolist(), strict=True)
        self._position, self._at = next(self._todo, (-1, -1))
        self._first = 1
        """number of the next block's first row"""

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
        of, text = next(self._details, (-1, b""))
        if of != position:
            raise run.damaged(LINES)
        self.as_scored &= self._writer.take(position, number, line, text, self._handles["removed"])
        self._position, self._at = next(self._todo, (-1, -1))
        if self._writer.gone[position]:
            self.n_removed += 1
        else:
            self._stay(line, number, number + 1)


def removed_line(line: bytes, detail: ScoreLine, rank: int, text: bytes = b"") -> bytes:
    """What is written of a removed row: its own bytes, with a note as its last field.

    Args:
        detail: the row's line of scores.jsonl.
        text: the same as it is written there, if it is at hand: most of the note is a part of it.
    """
    row = on_one_line(line.lstrip(BOM)).strip()
    # Nothing else of the row is needed; a name may be written with escapes.
    record = json.loads(row) if b"geofilter" in row or b"\\u" in row else {}
    # Of an earlier removal; readers see the last field of a name only.
    previous = {"previous": record["geofilter"]} if "geofilter" in record else {}
    # What a string escapes could be written otherwise in a note that has other strings.
    found = _SCORE_LINE.fullmatch(text) if not previous and b"\\" not in text else None
    last = {"rank": rank, "reason": reason(detail), **previous}
    if found is None:
        note = dumps({**{name: detail[name] for name in _NOTED}, **last}).rstrip()
    else:
        note = b"{%b%b, %b" % (found[1], found[2], dumps(last).rstrip()[1:])
    return row[:-1] + _NOTE + note + b"}\n"
