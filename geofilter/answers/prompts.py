"""The prompts of the rows that a run's last cut removed, to be answered again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from geofilter.cut.cut import Selection
from geofilter.cut.places import refuse_beside
from geofilter.files import atomic, dumps
from geofilter.report.last import current, cut_of
from geofilter.rows.answered import NOTE, answered
from geofilter.rows.row_error import RowError
from geofilter.run.rows import RowPlaces, scored_rows
from geofilter.run.store import Run
from geofilter.text import counted


@dataclass(slots=True)
class Prompts:
    """What was written of the removed rows."""

    path: Path
    written: int = 0
    without: Counter[str] = field(default_factory=Counter)
    """rows without a prompt there, by why"""
    first: dict[str, str] = field(default_factory=dict)
    """where the first of them stands, likewise"""

    def text(self) -> Iterator[str]:
        """In sentences."""
        yield f"{counted(self.written, 'prompt')} of removed rows: {self.path}"
        for why, n in self.without.items():
            more = f" and {n - 1:,} more" if n > 1 else ""
            yield f"not among them: {self.first[why]}{more} {why}"


def refuse_place(run: Run, path: Path, out: Path | None, removed: Path | None) -> None:
    """Refuse a place for prompts, before anything is written.

    Args:
        out, removed: where the cut writes, see `places.planned`.

    Raises:
        InputError: it is an input, an output of the cut, or cannot be written.
    """
    inputs = [Path(info["path"]) for info in run.manifest["data"]]
    refuse_beside("--prompts", path, inputs, out, removed, run.path)


def write_prompts(run: Run, path: Path) -> Prompts:
    """Write the removed rows with their answers empty: JSONL in the shape that each has, in input order, each once.

    Each has a field `geofilter` with the hash, file and line of its row, by which `replace` knows it again.

    Raises:
        InputError: the run has not been cut, has been scored anew since, or the file cannot be written.
        RunError: an input has changed since the scan.
    """
    found, reading = Prompts(path), run.reading
    seen: set[bytes] = set()
    gone = np.flatnonzero(Selection.of(run, cut_of(current(run))).removed)
    columns = run.columns(RowPlaces.__slots__)
    places = RowPlaces(*(columns[name].take(gone) for name in RowPlaces.__slots__))
    with atomic(path) as handle:
        for row in scored_rows(run, places):
            digest = bytes.fromhex(row.sha256)
            if digest in seen:  # rows of the same bytes have one answer
                continue
            seen.add(digest)
            try:
                record = answered(row, "", reading)
            except RowError as error:
                found.without[str(error)] += 1
                found.first.setdefault(str(error), f"{row.file}, line {row.line}")
                continue
            handle.write(dumps({**record, NOTE: {"sha256": row.sha256, "file": row.file, "line": row.line}}))
            found.written += 1
    return found
