"""The removed pairs of a cut whose chosen answer scores higher than the rejected one, with their answers exchanged."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypedDict

import numpy as np

from geofilter.arrays import Bools
from geofilter.cut.cut import Selection
from geofilter.cut.places import refuse_beside
from geofilter.errors import RunError
from geofilter.files import dumps
from geofilter.rows.answered import NOTE
from geofilter.rows.pairs import exchanged
from geofilter.rows.row_error import RowError
from geofilter.run.rows import RowPlaces, scored_rows
from geofilter.run.score_arrays import has_pairs
from geofilter.run.store import Run


class SwapReport(TypedDict):
    """What was written of removed pairs."""

    file: str
    rows: int
    """pairs that were exchanged; those of the same bytes have one line"""


@dataclass(frozen=True, slots=True)
class Swap:
    """A file of exchanged pairs that is to be written beside a cut."""

    path: Path

    def refuse(self, run: Run, out: Path | None, removed: Path | None) -> None:
        """Refuse a run that has not read both answers, and a place that cannot be written, before anything is.

        Args:
            out, removed: where the cut writes, see `places.planned`.

        Raises:
            RunError: the run has read chosen answers alone.
            InputError: the place is an input, an output of the cut, or cannot be written.
        """
        if not has_pairs(run.manifest):
            raise RunError(
                f"{run.called}: scanned without --pairs difference, so it is not known what rejected answers score; "
                "scan again with it, then filter with --swap"
            )
        inputs = [Path(info["path"]) for info in run.manifest["data"]]
        refuse_beside("--swap", self.path, inputs, out, removed, run.path)

    def write(self, selection: Selection, handle: IO[bytes]) -> SwapReport:
        """Write the pairs: JSONL in the shape that each has, in input order, each once.

        Each has a field `geofilter` with the hash, file and line of its row, by which `geofilter replace` puts it in
        the row's place.

        Raises:
            InputError: an input cannot be read.
            RunError: it has changed since the scan, or a row of it is no pair for this version.
        """
        run, seen = selection.run, set[str]()
        rows = np.flatnonzero(selection.removed & worse(selection))
        places = RowPlaces(*(selection.columns[name].take(rows) for name in RowPlaces.__slots__))
        for row in scored_rows(run, places):
            if row.sha256 in seen:
                continue
            seen.add(row.sha256)
            note = {"sha256": row.sha256, "file": row.file, "line": row.line}
            try:
                record = exchanged({key: value for key, value in row.record.items() if key != NOTE})
            except RowError as error:
                raise RunError(f"{row.file}, line {row.line}: {error}; scan again, then filter") from None
            handle.write(dumps({**record, NOTE: note}))
        return {"file": str(self.path), "rows": len(rows)}


def worse(selection: Selection) -> Bools:
    """Which rows (n,) are pairs whose chosen answer scores higher than the rejected one; of a run that has both."""
    result: Bools = selection.columns["difference"].where(lambda rows: rows > 0)
    result &= selection.columns["paired"].whole()
    return result
