"""Rows read from the inputs again, and checked to be those that were scored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from geofilter.errors import RunError
from geofilter.rows.lines import read_lines
from geofilter.rows.reading import Reading
from geofilter.rows.records import Row, parse_line
from geofilter.run.manifest import InputFile
from geofilter.run.store import Run


def reread(details: Iterable[Mapping[str, Any]], reading: Reading) -> dict[tuple[str, int], Row]:
    """The rows that lines of scores.jsonl are about, by file and line.

    Args:
        reading: of the run, see `Run.reading`.

    Raises:
        InputError: an input is gone or damaged.
        RunError: an input has changed since the scan.
    """
    wanted: dict[str, dict[int, str]] = {}
    for detail in details:
        wanted.setdefault(detail["file"], {})[detail["line"]] = detail["sha256"]
    found: dict[tuple[str, int], Row] = {}
    for file, hashes in wanted.items():
        number = 0
        for number, line in enumerate(islice(read_lines(Path(file)), max(hashes)), start=1):
            if number in hashes:
                row = parse_line(line, file, number, reading)
                if isinstance(row, Row) and row.sha256 == hashes[number]:
                    found[file, number] = row
        missing = next((number for number in hashes if (file, number) not in found), None)
        if missing is not None:
            if missing > number:
                raise RunError(f"{file}: has no line {missing} any more; scan it again")
            raise RunError(f"{file}, line {missing}: has changed since the scan; scan it again")
    return found


def scored_rows(run: Run) -> Iterator[Row]:
    """Every scored row of a run in input order, read from the inputs again.

    Raises:
        InputError: an input is gone.
        RunError: an input has changed since the scan.
    """
    arrays = run.arrays()
    shas = run.hashes()
    file, line = arrays["file"], arrays["line"]
    reading = run.reading
    n = 0
    for i, info in enumerate(run.manifest["data"]):
        digest = hashlib.sha256()
        for number, raw in enumerate(read_lines(Path(info["path"])), start=1):
            digest.update(raw)
            if n < len(line) and file[n] == i and line[n] == number:
                row = parse_line(raw, info["path"], number, reading)
                if not isinstance(row, Row) or row.sha256 != shas[n].tobytes().hex():
                    raise RunError(f"{info['path']}, line {number}: has changed since the scan; scan it again")
                yield row
                n += 1
        if digest.hexdigest() != info["sha256"]:
            raise RunError(f"{info['path']}: has changed since the scan; scan it again")


def check_unchanged(info: InputFile) -> None:
    """Refuse an input whose rows are not those that were scanned.

    Raises:
        InputError: it is gone.
        RunError: it has changed since the scan.
    """
    digest = hashlib.sha256()
    for line in read_lines(Path(info["path"])):
        digest.update(line)
    if digest.hexdigest() != info["sha256"]:
        raise RunError(f"{info['path']}: has changed since the scan; scan it again")
