"""Answers that take the place of removed ones: a file of them, each known by the hash of its row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geofilter.errors import InputError
from geofilter.files import from_json
from geofilter.rows.answered import NOTE, answered
from geofilter.rows.lines import read_lines
from geofilter.rows.reading import Reading
from geofilter.rows.records import Row
from geofilter.rows.row_error import RowError
from geofilter.rows.shapes import parse_record

_LAYOUT = 'a line is one of --prompts with its answer filled in, or {"sha256": ..., "answer": ...}'


class Answers:
    """Answers of a file, by the sha256 of the rows whose prompts they answer.

    Args:
        path: JSONL; lines of `filter --prompts` with the answer filled in, or `{"sha256", "answer"}`.

    Raises:
        InputError: a line that is neither, or two answers to one row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: dict[str, tuple[int, Mapping[str, Any]]] = {}
        self._met: set[str] = set()
        for number, line in enumerate(read_lines(path), start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                record = from_json(line)
                note = record.get(NOTE, record)
                sha256 = str(note["sha256"]).lower()
            except (ValueError, KeyError, TypeError, AttributeError):
                raise InputError(f"{where}: does not say which row it answers; {_LAYOUT}") from None
            if NOTE not in record and not isinstance(record.get("answer"), str):
                raise InputError(f"{where}: no answer; {_LAYOUT}")
            if (before := self._found.setdefault(sha256, (number, record)))[0] != number:
                raise InputError(f"{path}, lines {before[0]} and {number}: two answers to the same row; keep one")

    def to(self, row: Row, reading: Reading) -> dict[str, Any] | None:
        """The record that takes a removed row's place; None where it has no answer.

        Raises:
            InputError: the answer is the one that was removed, or is to another prompt, or the row's shape has no
                place for one.
        """
        if row.sha256 not in self._found:
            return None
        self._met.add(row.sha256)
        number, record = self._found[row.sha256]
        where = f"{self.path}, line {number}"
        try:
            text = self._text(row, record, reading)
            if text is None:
                return None
            new = answered(row, text, reading)
        except RowError as error:
            raise InputError(f"{where}: {row.file}, line {row.line} {error}; remove the line") from None
        if text.strip() == row.response.strip():
            raise InputError(f"{where}: is the answer that was removed; answer the prompt anew, or remove the line")
        return new

    def _text(self, row: Row, record: Mapping[str, Any], reading: Reading) -> str | None:
        """The answer of a line; None where it is still empty."""
        if NOTE not in record:
            return record["answer"] if record["answer"].strip() else None
        given = {key: value for key, value in record.items() if key != NOTE}
        if given == answered(row, "", reading):
            return None
        parsed = parse_record(given, reading)
        found = Row(row.file, row.line, "", parsed.shape, parsed.turns, given)
        asked = answered(row, found.response, reading)
        if parse_record(asked, reading).turns != parsed.turns:
            raise RowError("was asked something else; fill in the answer and leave the rest of the line as it is")
        return found.response

    def strangers(self) -> list[int]:
        """Lines that answer no row that the cut removed."""
        return sorted(number for sha256, (number, _) in self._found.items() if sha256 not in self._met)
