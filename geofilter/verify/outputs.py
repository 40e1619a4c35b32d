"""The files of a run's last cut: whole sets, in which every row of the inputs stands once, where the cut puts it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from geofilter.arrays import Positions
from geofilter.cut.cut import Selection
from geofilter.cut.notes import removed_line, whole_note
from geofilter.cut.outputs import Following
from geofilter.cut.sets import ROWS, OutputSet, torn
from geofilter.errors import GeofilterError, InputError, RunError
from geofilter.files import dumps, own_bytes
from geofilter.report.last import (
    CUT,
    CutRecord,
    cut_of,
    cut_record,
    own_set,
    report_of,
    scored_anew,
    sets_of,
    torn_replaced,
)
from geofilter.rows.lines import on_one_line, read_lines
from geofilter.rows.records import row_sha256
from geofilter.run.manifest import Manifest, ScoreLine
from geofilter.run.rows import lines_of
from geofilter.run.score_arrays import rows_of_files
from geofilter.run.store import Run
from geofilter.verify.findings import Findings


def check_outputs(run: Run, manifest: Manifest, found: Findings) -> None:
    """Apply the last cut again and hold what it has written against the inputs, row by row."""
    record = None
    with found.part(
        "no cut has been made" if not (run.path / CUT).exists() else "the reports are those of the last cut"
    ):
        record = cut_record(run)
        if record is None:
            return
        if scored_anew(run, record):
            found.doubt(run.path / CUT, "scores", "the run has been scored anew since it was cut")
            return
        for kind in ("html", "json", "md"):
            try:
                report_of(run, record, kind)
            except RunError as error:
                path = run.path / f"report.{kind}"
                found.doubt(path, _differing_byte(path, _twin(run, record, kind)), str(error).partition(": ")[2])
    if record is None or scored_anew(run, record):
        return
    with found.part(
        f"the files of the last cut ({cut_of(record)}) hold every row of the inputs once, where it belongs"
    ):
        selection = Selection.of(run, cut_of(record))
        for index, path in enumerate(sets_of(run, record)):
            _check_set(run, manifest, selection, index, own_set(run, record, index), path, found)
    if record.get("replaced"):
        with found.part("the files with answered rows are what geofilter replace wrote"):
            for file, why in torn_replaced(run, record):
                found.doubt(file, "", why)


def _twin(run: Run, record: CutRecord, kind: str) -> Path | None:
    """The same report beside the rows of the first input."""
    first = sets_of(run, record)[0]
    try:
        of = own_set(run, record, 0)
    except RunError:
        return None
    names = [name for name in of["files"] if name.endswith(f".report.{kind}")] if of else []
    return first.parent / names[0] if names else None


def _differing_byte(path: Path, twin: Path | None) -> str:
    try:
        ours, theirs = own_bytes(path), own_bytes(twin) if twin else b""
    except (OSError, ValueError):
        return ""
    if not theirs or ours == theirs:
        return ""
    place = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    return f"byte {place + 1}"


def _check_set(
    run: Run, manifest: Manifest, selection: Selection, index: int, of: OutputSet | None, path: Path, found: Findings
) -> None:
    if of is None:
        found.doubt(path, "", "is of another cut, or of another input, which was written over this one")
        return
    differ = dict(torn(of, path))
    for file, why in differ.items():
        twin = run.path / f"report{file.suffix}" if ".report." in file.name else None
        found.doubt(file, _differing_byte(file, twin) if twin else "", why)
    names = [path.parent / name for name in of["files"]]
    kept, removed, quarantined = names[:ROWS]
    try:
        _walk(run, manifest, selection, index, (kept, removed, quarantined), found)
    except (GeofilterError, OSError) as error:
        found.doubt(path, "", f"its rows cannot be checked: {error}")


def _walk(
    run: Run,
    manifest: Manifest,
    selection: Selection,
    index: int,
    places: tuple[Path, Path, Path],
    found: Findings,
) -> None:
    """Hold every row of an input against the file where the cut puts it, in order."""
    info, columns = manifest["data"][index], selection.columns
    here = rows_of_files(columns["file"], len(manifest["data"]))[index]
    positions = np.flatnonzero(selection.removed[here]) + here.start
    gone = set(columns["line"].take(positions).tolist())
    aside = Following(q for q in run.quarantine() if q["file"] == info["path"])
    rank, details = selection.rank(), run.score_lines(positions)
    kept, removed, quarantined = (_Rows(path) for path in places)
    for number, line in enumerate(lines_of(info["path"]), start=1):
        if number > info["rows"]:
            break
        row = on_one_line(line)
        if (record := aside.at(info["path"], number)) is not None:
            right, file = quarantined.take() == dumps(record).rstrip(b"\n"), quarantined
        elif number in gone:
            right, file = removed.take() == _noted(line, next(details), rank), removed
        else:
            right, file = on_one_line(kept.take()) == row, kept
        if not right:
            text = f"is not line {number} of {info['path']}, which belongs there"
            found.doubt(file.path, f"row {file.n}", text)
            return
    for file in (kept, removed, quarantined):
        if file.take():
            found.doubt(file.path, f"row {file.n}", f"is no row of {info['path']} that belongs there")


def _noted(line: bytes, scored: tuple[int, ScoreLine], rank: Positions) -> bytes:
    """What is written of a removed row; nothing where the input has no such row any more."""
    position, detail = scored
    if row_sha256(line) != detail["sha256"]:
        return b""
    return removed_line(line, whole_note(detail, int(rank[position]))).rstrip(b"\n")


class _Rows:
    """The rows of an output, one after the other."""

    def __init__(self, path: Path) -> None:
        self.path, self.n = path, 0
        self._rows = self._read()

    def _read(self) -> Iterator[bytes]:
        if self.path.stat().st_size:
            try:
                yield from read_lines(self.path)
            except InputError as error:
                if "has no rows" not in str(error):  # of a table of which every row went
                    raise

    def take(self) -> bytes:
        """The next row; nothing after the last."""
        self.n += 1
        return next(self._rows, b"").rstrip(b"\r\n")
