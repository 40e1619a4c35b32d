"""Answers that take the place of removed ones: a file of them, each known by the hash of its row."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from geofilter.errors import InputError
from geofilter.files import from_json
from geofilter.rows.answered import NOTE, answered
from geofilter.rows.lines import on_one_line, read_lines
from geofilter.rows.pairs import asks_the_same, is_preference
from geofilter.rows.reading import Reading
from geofilter.rows.records import Row
from geofilter.rows.row_error import RowError
from geofilter.rows.shapes import parse_record
from geofilter.rows.turns import Turn

_LAYOUT = 'a line is one of --prompts with its answer filled in, of --swap, or {"sha256": ..., "answer": ...}'


class Answers:
    """Answers of a file, by the sha256 of the rows whose prompts they answer.

    Args:
        path: JSONL; lines of `filter --prompts` with the answer filled in, of `filter --swap`, or
            `{"sha256", "answer"}`.

    Raises:
        InputError: it cannot be read, or a line is neither.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._found: dict[bytes, list[tuple[int, int]]] = {}
        """number of each line that answers a row, and where it begins among the lines"""
        self._met: set[bytes] = set()
        self._lines = TemporaryFile()  # noqa: SIM115 (`close` closes it)
        """held there, and not in memory: answers may be many and long"""
        try:
            self._read()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Give up what holds the lines."""
        self._lines.close()

    def _read(self) -> None:
        path, at = self.path, 0
        for number, line in enumerate(() if _is_empty(path) else read_lines(path), start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                record = from_json(line)
                sha256 = bytes.fromhex(record.get(NOTE, record)["sha256"])
            except (ValueError, KeyError, TypeError, AttributeError):
                raise InputError(f"{where}: does not say which row it answers; {_LAYOUT}") from None
            if NOTE not in record and not isinstance(record.get("answer"), str | None):
                raise InputError(f"{where}: its answer is no text; {_LAYOUT}")
            self._found.setdefault(sha256, []).append((number, at))
            at += self._lines.write(on_one_line(line) + b"\n")

    def to(self, row: Row, reading: Reading) -> dict[str, Any] | None:
        """The record that takes a removed row's place; None where it has no answer, or an empty one.

        Rows of the same bytes have one answer.

        Raises:
            InputError: the answer is the one that was removed, or is to another prompt, there are two of them, or the
                row's shape has no place for one.
        """
        digest = bytes.fromhex(row.sha256)
        found = self._found.get(digest, ())
        if found:
            self._met.add(digest)
        said: tuple[int, dict[str, Any]] | None = None
        for number, at in found:
            self._lines.seek(at)
            line = self._lines.readline()
            where = f"{self.path}, line {number}"
            try:
                new = _answered(row, from_json(line), reading)
            except RowError as error:
                raise InputError(f"{where}: {row.file}, line {row.line} {error}; remove the line") from None
            if new is None:
                continue
            if said is not None and new != said[1]:
                raise InputError(f"{self.path}, lines {said[0]} and {number}: two answers to the same row; keep one")
            said = number, new
        return None if said is None else said[1]

    def strangers(self) -> list[int]:
        """Lines that answer no row that the cut removed."""
        return sorted(number for sha256, lines in self._found.items() if sha256 not in self._met for number, _ in lines)


def _is_empty(path: Path) -> bool:
    """Whether a file has nothing in it: no answers yet, and no error."""
    return path.is_file() and not path.stat().st_size


def _answered(row: Row, record: dict[str, Any], reading: Reading) -> dict[str, Any] | None:
    """The record of a row with the answer of a line; None where there is none yet.

    Raises:
        RowError: the line is no answer to the row's prompt, or is the one that was removed.
    """
    if NOTE in record:
        new = {key: value for key, value in record.items() if key != NOTE}
        if _is_pair_of(row, new, reading):
            return new
        if _blank(new) == _blank(answered(row, "", reading)):
            return None
    elif _blank(record.get("answer")) == "":
        return None
    else:
        new = answered(row, record["answer"], reading)
    first = next(i for i, turn in enumerate(row.turns) if turn.scored)
    turns = parse_record(new, reading).turns
    if turns[:first] != row.turns[:first] or len(turns) != first + 1:
        raise RowError("was asked something else; fill in the answer and leave the rest of the line as it is")
    removed, given = (_said(of) for of in (row.turns[first], turns[first]))
    if given == removed:
        raise RowError("is answered as it was before; answer its prompt anew")
    return new


def _is_pair_of(row: Row, new: dict[str, Any], reading: Reading) -> bool:
    """Whether a record is a pair to what a row asks, with another chosen answer, as `filter --swap` writes them."""
    try:
        return is_preference(row) and asks_the_same(row, new, reading)
    except RowError:
        return False


def _said(turn: Turn) -> str:
    return "\n".join(turn.text(span) for span in turn.scored).strip()


def _blank(value: Any) -> Any:
    """A value with texts that say nothing, and null, as the empty text."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return ""
    if isinstance(value, list):
        return [_blank(one) for one in value]
    return {key: _blank(one) for key, one in value.items()} if isinstance(value, dict) else value
