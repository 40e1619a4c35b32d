"""A data set with its removed rows answered anew, in their places."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from geofilter.answers.given import Answers
from geofilter.cut.cut import Selection
from geofilter.cut.outputs import Following
from geofilter.cut.sets import read_set
from geofilter.errors import InputError, RunError
from geofilter.files import dumps
from geofilter.places import refuse_output
from geofilter.report.last import CutRecord, current, cut_of, sets_of
from geofilter.rows.formats import Jsonl, format_of
from geofilter.rows.lines import on_one_line
from geofilter.rows.packing import split_name
from geofilter.rows.records import Row, parse_line
from geofilter.run.manifest import InputFile
from geofilter.run.rows import lines_of
from geofilter.run.score_arrays import rows_of_files
from geofilter.run.store import Run
from geofilter.text import counted
from geofilter.together import Together, mode_of


@dataclass(slots=True)
class Replaced:
    """What became of the rows of an input."""

    input: str
    output: str
    kept: int = 0
    """as they were, byte for byte"""
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

    def text(self) -> Iterator[str]:
        """In sentences."""
        yield (
            f"{counted(self.replaced, 'removed row')} answered anew in place, {self.kept:,} kept as they were: "
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

    Rows that stay keep their bytes. Inputs that are no JSONL give JSONL.

    Args:
        answers: see `given.Answers`.
        out: file (one input), or an existing folder; by default `NAME.replaced.jsonl` beside each input.

    Raises:
        InputError: not cut yet, scored anew since, an answer that fits no removed row, or a place that cannot be
            written.
        RunError: an input has changed since the scan.
    """
    record, inputs, columns = current(run), run.manifest["data"], run.columns(["file", "line"])
    removed, given = Selection.of(run, cut_of(record)).removed, Answers(answers)
    paths = _places([Path(info["path"]) for info in inputs], answers, out, _written(run, record))
    scored = rows_of_files(columns["file"], len(inputs))
    aside = Following(run.quarantine())
    found = []
    with Together() as files:
        for info, path, rows in zip(inputs, paths, scored, strict=True):
            numbers = columns["line"].read(rows.start, rows.stop)
            gone = set(numbers[removed[rows]].tolist())
            with files.open(path, mode_of([Path(info["path"])])) as handle:
                found.append(_write(run, info, path, gone, aside, given, handle))
        if strangers := given.strangers():
            more = f" and {len(strangers) - 1:,} more" if len(strangers) > 1 else ""
            raise InputError(
                f"{answers}, line {strangers[0]}{more}: answers no row that the last cut of {run.called} removed; "
                "remove the line, or cut again as when the prompts were written"
            )
    return found


def _write(
    run: Run, info: InputFile, out: Path, gone: set[int], aside: Following, given: Answers, handle: IO[bytes]
) -> Replaced:
    """Write the rows of an input.

    Args:
        gone: lines of the rows that the cut removed.
        aside: the run's quarantined rows, in step with its inputs.

    Raises:
        RunError: the input has changed since the scan.
    """
    done, reading = Replaced(info["path"], str(out), not_scanned=info["lines"] - info["rows"]), run.reading
    in_lines, digest = isinstance(format_of(Path(info["path"])), Jsonl), hashlib.sha256()
    for number, line in enumerate(lines_of(info["path"]), start=1):
        digest.update(line)
        if number > info["rows"]:
            continue  # behind --limit
        if aside.at(info["path"], number) is not None:
            done.quarantined += 1
        elif number not in gone:
            handle.write(line if in_lines else on_one_line(line) + b"\n")
            done.kept += 1
        else:
            row = parse_line(line, info["path"], number, reading)
            record = given.to(row, reading) if isinstance(row, Row) else None
            if record is None:
                done.left_out += 1
            else:
                handle.write(dumps(record))
                done.replaced += 1
    if digest.hexdigest() != info["sha256"]:
        raise RunError(f"{info['path']}: has changed since the scan; scan it again, then filter")
    return done


def _written(run: Run, record: CutRecord) -> Iterator[Path]:
    """The files of the run's last cut, as far as they are known."""
    for path in sets_of(run, record):
        yield path
        try:
            yield from (path.parent / name for name in read_set(path)["files"])
        except RunError:  # another cut has been written there, or nothing is left
            continue


def _places(inputs: Sequence[Path], answers: Path, out: Path | None, outputs: Iterable[Path]) -> list[Path]:
    """Where each input's rows go.

    Args:
        outputs: of the cut, which stay.

    Raises:
        InputError: one file for several inputs, or a place that cannot be written.
    """
    if out is not None and not out.is_dir():
        if len(inputs) > 1:
            raise InputError(f"--out {out}: the run has {len(inputs)} inputs; give an existing folder")
        paths = [out]
    else:
        paths = [(out or path.parent) / f"{split_name(path)[0]}.replaced.jsonl" for path in inputs]
    if len(set(paths)) < len(paths):
        raise InputError("inputs of one name would be written over each other; scan them in runs of their own")
    taken = {of.resolve() for of in outputs}
    for path in paths:
        if path.resolve() in taken:
            raise InputError(f"--out {path}: is an output of the cut; give another name")
        refuse_output(path, "--out" if out else "", [*inputs, answers], named=out is not None)
    return paths
