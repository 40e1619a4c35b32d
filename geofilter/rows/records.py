"""Rows in: one row of a data file of any format becomes a `Row` or an `Unusable`, never nothing.

The shape of every row is recognised on its own (see `parse_record`). Raw bytes are kept so that a kept
row can be written back exactly as it came.
"""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from geofilter.errors import InputError
from geofilter.rows.bounded import KEPT_BYTES, MOST_BYTES, Extent, Overlong, Unreadable, over_limit
from geofilter.rows.fields import NO_FIELDS, SHOWN_COLUMNS, Fields, columns, listed, lookup
from geofilter.rows.lines import read_lines
from geofilter.rows.reading import AS_THEY_ARE, Reading, as_written
from geofilter.rows.row_error import RE_ENCODE, RowError
from geofilter.rows.shapes import parse_record
from geofilter.rows.strict_json import loads
from geofilter.rows.turns import SPOKEN, Turn
from geofilter.text import did_you_mean, one_line, shorten

SOURCE_FIELDS = ("source", "dataset")
"""fields that say where a row comes from, first found first"""
SOURCE_CHARS = 60
REASON_CHARS = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """A usable record."""

    file: str
    """path as given on the command line"""
    line: int
    """1-based line number"""
    sha256: str
    """of the line's bytes without its line ending"""
    format: str
    """its shape, one of `keys.SHAPES`"""
    turns: tuple[Turn, ...]
    record: Mapping[str, Any]
    """the parsed object"""
    tools: tuple[Any, ...] = ()
    """descriptions of tools, for the chat template"""
    used: tuple[str, ...] = ()
    """the record's keys that were read"""
    remarks: tuple[str, ...] = ()
    """of `shapes.REMARKS`"""

    @property
    def content_sha256(self) -> str:
        """Of who says what in it: the same for a row with further fields, in another order, or of another format."""
        turns = [[t.role, t.content, {k: t.extra[k] for k in SPOKEN if k in t.extra}] for t in self.turns]
        return hashlib.sha256(json.dumps(turns, sort_keys=True, default=str).encode()).hexdigest()

    @property
    def response(self) -> str:
        """The text a fine-tuning loss falls on, one scored part a line."""
        return "\n".join(turn.text(span) for turn in self.turns for span in turn.scored)

    @property
    def prompt(self) -> str:
        """Everything before the last turn that is scored, as one string; empty for plain text."""
        last = max((i for i, turn in enumerate(self.turns) if turn.scored), default=0)
        return "\n".join(turn.content for turn in self.turns[:last])


@dataclass(frozen=True, slots=True)
class Unusable:
    """A line that cannot be scored, with the reason; it goes to the quarantine file."""

    file: str
    line: int
    error: str
    raw: bytes
    """the line without its line ending; of an `Overlong` one what stands for it"""
    extent: Extent | None = None
    """of such a one, where it is"""

    def to_json(self) -> dict[str, Any]:
        """The quarantine record: `raw` as text, or `raw_base64` where the bytes are not UTF-8; of a row of over
        `KEPT_BYTES` not those but how many they are, their hash, and where they begin if that is known.
        """
        out: dict[str, Any] = {"file": self.file, "line": self.line, "error": self.error}
        extent = self.extent
        if extent is None and len(self.raw) > KEPT_BYTES:
            extent = Extent(len(self.raw), hashlib.sha256(self.raw).hexdigest())
        if extent is not None:
            out |= {"bytes": extent.size, "sha256": extent.sha256}
            return out if extent.offset is None else {**out, "offset": extent.offset}
        try:
            out["raw"] = self.raw.decode("utf-8")
        except UnicodeDecodeError:
            out["raw_base64"] = base64.b64encode(self.raw).decode("ascii")
        return out


def read_rows(path: Path, limit: int | None = None, reading: Reading = AS_THEY_ARE) -> Iterator[Row | Unusable]:
    """The file's first `limit` lines (all when None), each as a `Row` or an `Unusable`, less those passed over.

    Raises:
        InputError: the file cannot be read.
    """
    for number, line in enumerate(islice(read_lines(path), limit), start=1):
        if (row := parse_line(line, str(path), number, reading)) is not None:
            yield row


def usable_rows(path: Path, reading: Reading = AS_THEY_ARE) -> Iterator[Row]:
    """The file's rows, all of which have to be usable.

    Raises:
        InputError: the file cannot be read, or a row of it cannot be used.
    """
    for row in read_rows(path, reading=reading):
        if isinstance(row, Unusable):
            raise InputError(f"{path}, line {row.line}: {row.error}")
        yield row


def check_fields(paths: Sequence[Path], fields: Fields, limit: int | None = None) -> None:
    """Refuse columns that are in no row of a file: they are misspelt, or the file is of another shape.

    Of `system` it is enough that one of the files has it. Reads until each column has been seen, most often one line.

    Args:
        limit: only the first rows of each file count.

    Raises:
        InputError: no row has a column, or a file cannot be read.
    """
    nowhere, known = dict(fields), dict[str, None]()
    for path in paths if fields else ():
        absent, seen = _absent(path, fields, limit)
        for name, column in absent.items():
            if name != "system" and seen:
                raise _no_such_column(path, name, column, seen)
        nowhere = {name: column for name, column in nowhere.items() if name in absent}
        known |= dict.fromkeys(seen)
    for name, column in nowhere.items():
        if known:
            raise _no_such_column(paths[0], name, column, known)


def check_columns(paths: Sequence[Path], reading: Reading, limit: int | None = None) -> None:
    """Refuse what `check_fields` does, and a `Reading.only` that leaves out every row of all files.

    Args:
        limit: only the first rows of each file count.

    Raises:
        InputError: no row has a column or a value, or a file cannot be read.
    """
    check_fields(paths, reading.fields, limit)
    known, values = dict[str, None](), {column: dict[str, None]() for column, _ in reading.only}
    for record in (record for path in paths if reading.only for record in _records(path, limit)):
        if reading.wants(record):
            return
        known |= dict.fromkeys(columns(record)) if len(known) < SHOWN_COLUMNS else {}
        for column, seen in values.items():
            if (value := lookup(record, column)) is not None and len(seen) < SHOWN_COLUMNS:
                seen[as_written(value)] = None
    for column, wanted in reading.only if known else ():
        said, there = f"--only {column}={wanted}", values[column]
        if not there:
            raise InputError(f"{said}: no row has the column {column}; there are {listed(known)}"
                             f"{did_you_mean(column, known)}")  # fmt: skip
        if wanted not in there:
            raise InputError(f"{said}: no row has this value; there are {listed(there)}{did_you_mean(wanted, there)}")
    if known:
        raise InputError("--only: no row has all of these values; leave one of them out")


def reading_for(path: Path, reading: Reading) -> Reading:
    """How to read the rows of another file than the run's own: all of them, by the same columns if it has them.

    Raises:
        InputError: the file cannot be read.
    """
    has = not set(_absent(path, reading.fields, None)[0]) - {"system"}
    return replace(reading, only=(), fields=reading.fields if has else NO_FIELDS)


def _records(path: Path, limit: int | None) -> Iterator[dict[str, Any]]:
    """The objects of a file's first rows; those that are none are passed over."""
    for line in islice(read_lines(path), limit):
        try:
            yield _record(line.rstrip(b"\r\n"))
        except RowError:
            continue


def _absent(path: Path, fields: Fields, limit: int | None) -> tuple[dict[str, str], list[str]]:
    """What of the fields no row of a file has, and some of the columns it has."""
    absent, seen = dict(fields), dict[str, None]()
    for record in _records(path, limit) if fields else ():
        absent = {name: column for name, column in absent.items() if lookup(record, column) is None}
        if len(seen) < SHOWN_COLUMNS:
            seen |= dict.fromkeys(columns(record))
        if not absent:
            break
    return absent, list(seen)


def _no_such_column(path: Path, name: str, column: str, seen: Iterable[str]) -> InputError:
    return InputError(
        f"{path}: no row has the column {column} (--fields {name}={column}); there are {listed(seen)}"
        f"{did_you_mean(column, seen)}"
    )


def row_sha256(line: bytes) -> str:
    """What a row is known by: the hash of its raw line without the ending."""
    return hashlib.sha256(line.rstrip(b"\r\n")).hexdigest()


def parse_line(line: bytes, file: str, number: int, reading: Reading = AS_THEY_ARE) -> Row | Unusable | None:
    """One raw line (with or without its ending) as a `Row`, or an `Unusable` that says why not.

    Returns:
        None for a row that the reading passes over.
    """
    try:
        return _parse_line(line, file, number, reading)
    except RecursionError:  # of the caller's stack: what a row may nest is little
        return _on_empty_stack(lambda: _parse_line(line, file, number, reading))


def _on_empty_stack(work: Callable[[], Row | Unusable | None]) -> Row | Unusable | None:
    """What a function returns when it is called with nothing on the stack."""
    found: list[Row | Unusable | None] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def _parse_line(line: bytes, file: str, number: int, reading: Reading) -> Row | Unusable | None:
    raw = line.rstrip(b"\r\n")
    try:
        if isinstance(line, Unreadable):
            raise RowError(line.error)
        if len(raw) > MOST_BYTES:
            raise RowError(over_limit(len(raw)))
        record = _record(raw)
        if not reading.wants(record):
            return None
        found = parse_record(record, reading)
    except RowError as error:
        return Unusable(file, number, reason_of(error), raw, line.extent if isinstance(line, Overlong) else None)
    return Row(file, number, row_sha256(raw), found.shape, found.turns, record, found.tools, found.used, found.remarks)


def reason_of(error: Exception) -> str:
    """Why a row cannot be used, on one line, inert and short, whatever names of the row stand in it."""
    return shorten(one_line(str(error)[: 2 * REASON_CHARS]), REASON_CHARS)


def _record(raw: bytes) -> dict[str, Any]:
    """The object on a line without its ending."""
    record = _load_json(raw)
    if not isinstance(record, dict):
        write = "write its rows one a line" if isinstance(record, list) else "write it as one"
        raise RowError(f"a row must be a JSON object, not {type(record).__name__}; {write}")
    return record


def _load_json(raw: bytes) -> Any:
    try:
        # A byte order mark stands before any line where files were put one behind the other.
        text = raw.decode("utf-8").lstrip("\ufeff")
    except UnicodeDecodeError as error:
        raise RowError(f"not UTF-8 at byte {error.start}; {RE_ENCODE}") from None
    if not text.strip():
        raise RowError("empty line; remove it")
    try:
        return loads(text)
    except json.JSONDecodeError as error:
        if text[error.pos :].strip() == "," and text.lstrip()[0] == "{":
            raise RowError(
                "the line ends in a comma, as in an array without its brackets; remove the comma, or put [ before the "
                "first line and ] behind the last"
            ) from None
        raise RowError(f"broken JSON at column {error.colno}: {error.msg}; mend or remove the line") from None


def source_of(record: Mapping[str, Any]) -> str:
    """What a record says of where it comes from, at most 60 characters; empty when it says nothing."""
    found = (record[name] for name in SOURCE_FIELDS if isinstance(record.get(name), str))
    return next(found, "")[:SOURCE_CHARS]
