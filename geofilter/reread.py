"""Rows read from the inputs again, and checked to be those that were scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from geofilter.errors import RunError
from geofilter.fields import Fields
from geofilter.inputs import read_lines
from geofilter.records import Row, parse_line


def reread(details: Iterable[Mapping[str, Any]], fields: Fields) -> dict[tuple[str, int], Row]:
    """The rows that lines of scores.jsonl are about, by file and line.

    Args:
        fields: of the run, see `Run.fields`.

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
                row = parse_line(line, file, number, fields)
                if isinstance(row, Row) and row.sha256 == hashes[number]:
                    found[file, number] = row
        missing = next((number for number in hashes if (file, number) not in found), None)
        if missing is not None:
            if missing > number:
                raise RunError(f"{file}: has no line {missing} any more; scan it again")
            raise RunError(f"{file}, line {missing}: has changed since the scan; scan it again")
    return found
