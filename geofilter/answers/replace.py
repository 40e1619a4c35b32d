"""A data set with its removed rows answered anew, in their places."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

from geofilter.answers.given import Answers
from geofilter.cut.cut import Selection
from geofilter.cut.outputs import Following
from geofilter.cut.places import Place, longer_names
from geofilter.cut.sets import read_set, sum_new
from geofilter.errors import InputError, RunError
from geofilter.files import dumps
from geofilter.places import refuse_output
from geofilter.report.last import CutRecord, ReplacedFile, current, cut_of, from_run, sets_of
from geofilter.report.write import write_replaced
from geofilter.rows.changes import Changes
from geofilter.rows.formats import Jsonl, format_of
from geofilter.rows.lines import on_one_line
from geofilter.rows.records import Row, parse_line
from geofilter.run.manifest import InputFile
from geofilter.run.rows import lines_of
from geofilter.run.score_arrays import rows_of_files
from geofilter.run.store import Run
from geofilter.text import counted
from geofilter.together import Together, mode_of

WORD = "replaced"
"""what stands between the stem of a file's name and its ending"""


@dataclass(slots=True)
class Replaced:
    """What became of the rows of an input."""

    input: str
    output: str
    kept: int = 0
    """as they were"""
    replaced: int = 0
    left_out: int = 0
    """removed rows without an answer"""
    quarantined: int = 0
    """rows that could not be scored, which are left out"""
    not_scanned: int = 0
    """rows behind --limit, which are left out"""

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)

    def recorded(self, run: Run, files: Together) -> ReplacedFile:
        """For the record of the cut.

        Args:
            files: what the output will appear with.
        """
        path = Path(self.output)
        return {
            "input": self.input, "output": from_run(run, path), "sum": sum_new(files, path), "kept": self.kept,
            "replaced": self.replaced, "left_out": self.left_out,
        }  # fmt: skip

    def text(self) -> Iterator[str]:
        """In sentences."""
        yield (
            f"{counted(self.replaced, 'removed row')} put back with another answer, {self.kept:,} kept as they were: "
            f"{self.output}"
        )
        if self.left_out:
            yield f"{counted(self.left_out, 'removed row')} of {self.input} without an answer left out"
        if self.quarantined:
            yield f"{counted(self.quarantined, 'row')} of {self.input} could not be scored and are left out"
        if self.not_scanned:
            yield f"{counted(self.not_scanned, 'row')} of {self.input} behind --limit left out"


def replace(run: Run, answers: Path, out: Path | None = None) -> list[Replaced]:
    """Write every input of a run with the rows of its last cut replaced by their answers, in the order of the input.

    Each is written in its input's format, as kept rows are: rows that stay keep their bytes, or where the format has
    none of its own (Parquet, Arrow) their values. The run's record of its cut and its reports say afterwards how many
    rows were answered, and where the files are; a run that cannot be written is left alone.

    Args:
        answers: see `given.Answers`.
        out: file (one input), or an existing folder; by default `NAME.replaced` with its ending beside each input.

    Raises:
        InputError: not cut yet, scored anew since, an answer that fits no removed row, or a place that cannot be
            written.
        RunError: an input has changed since the scan, or the run is in use.
    """
    record, inputs = current(run), [Path(info["path"]) for info in run.manifest["data"]]
    with closing(Answers(answers)) as given:
        places = _places(inputs, answers, out, _written(run, record))
        if not os.access(run.path, os.W_OK):
            with Together() as files:
                return _write_all(run, record, places, given, files)
        done: list[Replaced] = []

        def write(files: Together) -> list[ReplacedFile]:
            done[:] = _write_all(run, record, places, given, files)
            return [one.recorded(run, files) for one in done]

        write_replaced(run, {place.path.parent for place in places}, write)
        return done


def _write_all(run: Run, record: CutRecord, places: Sequence[Place], given: Answers, files: Together) -> list[Replaced]:
    inputs, columns = run.manifest["data"], run.columns(["file", "line"])
    removed, aside = Selection.of(run, cut_of(record)).removed, Following(run.quarantine())
    found = []
    for info, place, rows in zip(inputs, places, rows_of_files(columns["file"], len(inputs)), strict=True):
        numbers = columns["line"].read(rows.start, rows.stop)
        gone = set(numbers[removed[rows]].tolist())
        with place.open(files, mode_of([Path(info["path"])])) as handle:
            found.append(_write(run, info, place, gone, aside, given, handle))
    if strangers := given.strangers():
        more = f" and {len(strangers) - 1:,} more" if len(strangers) > 1 else ""
        raise InputError(
            f"{given.path}, line {strangers[0]}{more}: answers no row that the last cut of {run.called} removed; "
            "remove the line, or cut again as when the prompts were written"
        )
    return found


def _write(
    run: Run, info: InputFile, place: Place, gone: set[int], aside: Following, given: Answers, handle: IO[bytes]
) -> Replaced:
    """Write the rows of an input.

    Args:
        gone: lines of the rows that the cut removed.
        aside: the run's quarantined rows, in step with its inputs.

    Raises:
        RunError: the input has changed since the scan.
    """
    path, reading, digest = info["path"], run.reading, hashlib.sha256()
    done, found = Replaced(path, str(place.path), not_scanned=info["lines"] - info["rows"]), format_of(Path(path))
    own = isinstance(found, Jsonl)
    with TemporaryFile() as spooled:
        to = handle if place.in_lines else spooled
        keep, changed = np.zeros(info["rows"], bool), array("q")
        for number, line in enumerate(lines_of(path), start=1):
            digest.update(line)
            if number > info["rows"]:
                continue  # behind --limit
            if aside.at(path, number) is not None:
                done.quarantined += 1
            elif number not in gone:
                keep[number - 1] = True
                if place.in_lines:
                    to.write(line if own else on_one_line(line) + b"\n")
            else:
                row = parse_line(line, path, number, reading)
                record = given.to(row, reading) if isinstance(row, Row) else None
                if record is None:
                    done.left_out += 1
                    continue
                keep[number - 1] = True
                changed.append(number - 1)
                to.write(dumps(record))
        if digest.hexdigest() != info["sha256"]:
            raise RunError(f"{path}: has changed since the scan; scan it again, then filter")
        done.replaced, done.kept = len(changed), int(keep.sum()) - len(changed)
        if not place.in_lines and not isinstance(found, Jsonl):
            spooled.seek(0)
            records = (line.rstrip(b"\n") for line in spooled)
            found.write(keep, handle, Changes(zip(changed, records, strict=True)))
    return done


def _written(run: Run, record: CutRecord) -> Iterator[Path]:
    """The files of the run's last cut, as far as they are known."""
    for path in sets_of(run, record):
        yield path
        try:
            yield from (path.parent / name for name in read_set(path)["files"])
        except RunError:  # another cut has been written there, or nothing is left
            continue


def _places(inputs: Sequence[Path], answers: Path, out: Path | None, outputs: Iterable[Path]) -> list[Place]:
    """Where each input's rows go; of inputs of one name under longer ones, as the files of a cut.

    Args:
        outputs: of the cut, which stay.

    Raises:
        InputError: one file for several inputs, or a place that cannot be written.
    """
    if str(out) == "-":
        raise InputError("--out -: answered rows are written to a file only; name one")
    n = len(inputs)
    places = [Place.of(path, out, n, word=WORD) for path in inputs]
    count = Counter(place.path.resolve() for place in places)
    for i, name in longer_names(inputs, [i for i in range(n) if count[places[i].path.resolve()] > 1]).items():
        places[i] = Place.of(inputs[i], out, n, name, WORD)
    taken = {of.resolve() for of in outputs}
    for path in (place.path for place in places):
        if path.resolve() in taken:
            raise InputError(f"--out {path}: is an output of the cut; give another name")
        refuse_output(path, "--out" if out else "", [*inputs, answers], named=out is not None)
        if not path.parent.is_dir():
            raise InputError(f"--out {out}: no such folder; make it first")
    return places
