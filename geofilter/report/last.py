"""The last cut of a run, as the run's folder records it: cut.json, its reports, and the output sets it wrote."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from geofilter.cut.cut import Cut
from geofilter.cut.moved import unpacked
from geofilter.cut.sets import CutAbout, OutputSet, read_set, torn
from geofilter.errors import InputError, RunError
from geofilter.files import from_json, own_bytes
from geofilter.report.document import ReportDocument
from geofilter.run.names import SCORES
from geofilter.run.store import Run
from geofilter.sums import FileSum, broken, sum_of
from geofilter.typed import check_typed

CUT = "cut.json"
"""in a run folder: its last cut"""


class ReplacedFile(TypedDict):
    """An input whose removed rows were answered again, see `answers.replace`."""

    input: str
    output: str
    """as `CutRecord.sets` names files"""
    sum: FileSum
    kept: int
    replaced: int
    """removed rows that were answered and put back"""
    left_out: int
    """removed rows without an answer"""


class CutRecord(TypedDict):
    """What cut.json says."""

    whole: bool
    """False while the files are put in place: they are of this cut or of the one before it"""
    cut: CutAbout
    scores: str
    """sha256 of the scores that were cut"""
    sets: list[str]
    """the descriptions of the output sets, one an input; a path that was relative to the working folder is given from
    the run's folder, so that both can be moved together"""
    reports: dict[str, FileSum]
    """the reports in the run's folder"""
    replaced: NotRequired[list[ReplacedFile]]
    """what the last `geofilter replace` of this cut wrote, one an input"""


class LastCut(TypedDict):
    """What the last `geofilter filter` of a run did."""

    cut: str
    removed: int
    kept: int
    scored_anew: bool
    """the run's scores are others now"""


def cut_record(run: Run) -> CutRecord | None:
    """The last cut of a run; None where it has not been cut.

    Raises:
        RunError: an interrupted filter has left files of two cuts, or the record is damaged.
    """
    path = run.path / CUT
    again = f"run geofilter filter {shlex.quote(run.called)} again"
    try:
        found: Any = from_json(own_bytes(path))
        if not isinstance(found, dict):
            raise ValueError("no object")
        if wrong := broken(found):
            raise ValueError(f"its field {wrong} is not what was written")
        check_typed(found, CutRecord)
        if moved := found["cut"].get("moved"):
            unpacked(moved)
        if len(found["sets"]) != len(run.manifest["data"]):
            raise ValueError("sets are not one an input")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: damaged ({error}); {again}") from None
    record: CutRecord = found  # type: ignore[assignment]
    if not record["whole"]:
        raise RunError(
            f"{run.called}: a filter ({cut_of(record)}) was stopped before all of its files were in place, some may be "
            f"those of an earlier one; {again}"
        )
    return record


def cut_of(record: CutRecord) -> Cut:
    """The cut that a record is of."""
    return Cut.recorded(record["cut"])


def current(run: Run) -> CutRecord:
    """The last cut of a run, of the scores that it has now.

    Raises:
        InputError: the run has not been cut, or has been scored anew since.
        RunError: see `cut_record`.
    """
    record = cut_record(run)
    again = f"run geofilter filter {shlex.quote(run.called)} --drop 10% first"
    if record is None:
        raise InputError(f"{run.called}: not cut yet; {again}")
    if scored_anew(run, record):
        raise InputError(f"{run.called}: scored anew since it was cut; {again}")
    return record


def report_of(run: Run, record: CutRecord, kind: str = "json") -> Path:
    """A report in the run's folder, once it is known to be the one that was written.

    Raises:
        RunError: it is not.
    """
    path = run.path / f"report.{kind}"
    try:
        if sum_of(path) == record["reports"].get(path.name):
            return path
        why = "is not what was written"
    except OSError as error:
        why = f"cannot be read ({error.strerror or error})"
    raise RunError(f"{path}: {why}; run geofilter filter {shlex.quote(run.called)} again")


def sets_of(run: Run, record: CutRecord) -> list[Path]:
    """Where the descriptions of the output sets of a cut are, one an input."""
    return [place_of(run, name) for name in record["sets"]]


def place_of(run: Run, name: str) -> Path:
    """Where a file is that a record names, see `from_run`."""
    return Path(os.path.normpath(run.path / name))


def from_run(run: Run, path: Path) -> str:
    """How a record names a file: from the run's folder where its path was relative to the working folder."""
    # A mirror is another folder on every machine: nothing is named from there.
    return str(path.absolute()) if path.is_absolute() or run.mirror else os.path.relpath(path, run.path)


def torn_replaced(run: Run, record: CutRecord) -> Iterator[tuple[Path, str]]:
    """The files with answered rows that are not what was written, and what they are."""
    for of in record.get("replaced", []):
        path = place_of(run, of["output"])
        try:
            if sum_of(path) != of["sum"]:
                yield path, "is not what geofilter replace wrote"
        except OSError as error:
            yield path, f"cannot be read ({error.strerror or error})"


def own_set(run: Run, record: CutRecord, index: int) -> OutputSet | None:
    """The set that a cut has written of an input; None where another has been written there since, of whatever cut.

    Raises:
        RunError: the description is gone or damaged.
    """
    of, manifest = read_set(sets_of(run, record)[index]), run.manifest
    wanted = (manifest["fingerprint"], record["scores"], record["cut"], manifest["data"][index])
    return of if (of["fingerprint"], of["scores"], of["cut"], of["input"]) == wanted else None


def doubts(run: Run, record: CutRecord) -> Iterator[str]:
    """What is not as the last cut wrote it, one sentence each."""
    for index, path in enumerate(sets_of(run, record)):
        try:
            of = own_set(run, record, index)
        except RunError as error:
            yield str(error)
            continue
        if of is None:
            yield f"{path}: is of another cut now, or of another input, which was written over this one"
            continue
        for file, why in torn(of, path):
            yield f"{file}: {why}"
    for file, why in torn_replaced(run, record):
        yield f"{file}: {why}"


def last_cut(run: Run) -> LastCut | None:
    """The last cut of a finished run; None where it has not been cut, or its report cannot be read."""
    try:
        record = cut_record(run)
        if record is None:
            return None
        written: ReportDocument = from_json(own_bytes(report_of(run, record)))
    except RunError:
        return None
    counts = written["counts"]
    return {
        "cut": written["cut"],
        "removed": counts["removed"],
        "kept": counts["kept"],
        "scored_anew": scored_anew(run, record),
    }


def scored_anew(run: Run, record: CutRecord) -> bool:
    """Whether a run's scores are no longer those that were cut."""
    return run.manifest["files"][SCORES]["sha256"] != record["scores"]
