"""Writing a cut: the kept, removed and quarantined rows of every input."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from geofilter.arrays import Bools, Positions
from geofilter.cut.places import Outputs
from geofilter.errors import RunError
from geofilter.files import dumps
from geofilter.rows.formats import Jsonl, format_of
from geofilter.rows.json_array import BOM
from geofilter.rows.lines import on_one_line
from geofilter.rows.reading import Reading
from geofilter.rows.records import Row, parse_line, row_sha256
from geofilter.run.manifest import InputFile, Quarantined, ScoreLine
from geofilter.run.reasons import reason
from geofilter.run.rows import lines_of
from geofilter.run.store import LINES, QUARANTINE, Run
from geofilter.together import Together, mode_of

HASHED = 1 << 18
"""bytes of lines that are hashed at once"""
_NOTE = b', "geofilter": '
"""what follows a removed row's last field; a row without any is no row that is scored"""


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
    def _special(self) -> Bools:
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
        details = self.run.score_lines(np.flatnonzero(self._special))
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
        details: Iterator[tuple[int, ScoreLine]],
        aside: Following,
    ) -> Outputs:
        path, scored = info["path"], np.flatnonzero(self.arrays["file"] == plan.index)
        found, digest, as_scored = format_of(Path(path)), hashlib.sha256(), True
        lines = isinstance(found, Jsonl)
        keep, n_removed, n_bad = np.zeros(info["rows"], bool), 0, 0
        is_scored = np.zeros(info["rows"], bool)
        is_scored[self.arrays["line"][scored] - 1] = True
        special = scored[self._special[scored]]
        todo = zip(special.tolist(), self.arrays["line"][special].tolist(), strict=True)
        position, at = next(todo, (-1, -1))
        for number, line in enumerate(hashed(lines_of(path), digest.update), start=1):
            if number > info["rows"]:
                continue  # past --limit: not scanned, so in no output; said on every report
            if (record := aside.at(path, number)) is not None:
                if is_scored[number - 1]:
                    raise self.run.damaged(QUARANTINE)
                handles["quarantined"].write(dumps(record))
                n_bad += 1
                continue
            gone = False
            if number == at:
                gone = bool(self.gone[position])
                of, detail = next(details, (-1, None))
                if of != position or detail is None or detail.get("line") != number:
                    raise self.run.damaged(LINES)
                as_scored &= self._take(position, line, detail, handles["removed"])
                position, at = next(todo, (-1, -1))
            if gone:
                n_removed += 1
            else:
                keep[number - 1] = True
                if plan.in_lines:
                    handles["kept"].write(line if lines else on_one_line(line) + b"\n")
        if digest.hexdigest() != info["sha256"]:
            raise RunError(f"{path}: has changed since the scan; scan it again, then filter")
        if not as_scored:
            raise self.run.damaged(LINES)
        done = replace(plan, n_kept=int(keep.sum()), n_removed=n_removed, n_quarantined=n_bad)
        n_gone = int(self.gone[scored].sum())
        if not aside.done_with(path):
            raise self.run.damaged(QUARANTINE)
        passed = info["rows"] - len(scored) - n_bad if self._reading.only else 0
        done.check(path, info["rows"], len(scored) + passed - n_gone, n_gone, n_bad)
        if not plan.in_lines and not isinstance(found, Jsonl):
            found.write(keep, handles["kept"])
        return done

    def _take(self, position: int, line: bytes, detail: ScoreLine, out: IO[bytes]) -> bool:
        """Write a removed row and show a watched one; False where it is not the row that was scored."""
        if row_sha256(line) != detail["sha256"]:
            return False
        if self.gone[position]:
            out.write(removed_line(line, detail, int(self.rank[position])))
            if self.watcher is not None:
                self.watcher.removed(detail)
        if self._watched[position] and self.watcher is not None:
            row = parse_line(line, detail["file"], detail["line"], self._reading)
            if not isinstance(row, Row):
                return False
            self.watcher.row(position, detail, row)
        return True


def hashed(lines: Iterator[bytes], update: Callable[[bytes], None]) -> Iterator[bytes]:
    """Lines as they come, told to a hash, many at once."""
    seen: list[bytes] = []
    size = 0
    for line in lines:
        seen.append(line)
        size += len(line)
        if size >= HASHED:
            update(b"".join(seen))
            seen, size = [], 0
        yield line
    update(b"".join(seen))


def removed_line(line: bytes, detail: ScoreLine, rank: int) -> bytes:
    """What is written of a removed row: its own bytes, with a note as its last field."""
    row = on_one_line(line.lstrip(BOM)).strip()
    # Nothing else of the row is needed; a name may be written with escapes.
    record = json.loads(row) if b"geofilter" in row or b"\\u" in row else {}
    note: dict[str, Any] = {
        "score": detail["score"],
        "percentile": detail["percentile"],
        "bank": detail["bank"],
        "banks": detail["banks"],
        "topic": detail["topic"],
        "topics": detail["topics"],
        "top_features": detail["top_features"],
        "common": detail["common"],
        "explained": detail["explained"],
        "rank": rank,
        "reason": reason(detail),
    }
    if "geofilter" in record:
        note["previous"] = record["geofilter"]  # of an earlier removal; readers see the last field of a name only
    return row[:-1] + _NOTE + dumps(note).rstrip() + b"}\n"
