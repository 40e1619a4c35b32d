"""CSV and TSV files with a header: every record as a row whose columns are text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import compress, islice
from pathlib import Path
from typing import IO, Any

import numpy.typing as npt

from geofilter.errors import InputError
from geofilter.files import from_json
from geofilter.rows.bounded import MOST_BYTES, MOST_COLUMNS, Overlong, Unreadable, bounded_lines, over_limit
from geofilter.rows.changes import AS_LINES, Changes
from geofilter.rows.packing import named_as, unpacked
from geofilter.rows.row_error import RE_ENCODE

ENDINGS = (".csv", ".tsv")
DELIMITERS = b",;\t|"
"""the first counts among equals"""
LOOKED_AT = 4
"""records by which a table is told that is not named as one"""
_TO_QUOTE = re.compile(rb'(?:[^"]++|"")*+"')
ESCAPED = 6
"""bytes that a control character takes in JSON"""
_CONTROL = bytes(range(0x20))
BOM = b"\xef\xbb\xbf"


def _as_json(record: bytes) -> int:
    """At most how many bytes the texts of a record take in JSON."""
    return len(record) + (ESCAPED - 1) * (len(record) - len(record.translate(None, _CONTROL)))


@dataclass(frozen=True)
class Table:
    """A file of records whose fields are set apart by one character; fields in quotes may hold it, and line breaks."""

    path: Path
    packed: str
    """see `packing.packed_as`"""

    @property
    def endings(self) -> tuple[str, ...]:
        """What a name of such a file ends in."""
        return (".tsv",) if self._delimiter == b"\t" else (".csv",)

    @cached_property
    def _delimiter(self) -> bytes:
        """The one that is most often in the first line; a tab in a .tsv file."""
        if named_as(self.path)[0] == ".tsv":
            return b"\t"
        bare = re.sub(rb'"(?:[^"]|"")*"', b"", next(self._lines(), b""))
        return bytes([max(DELIMITERS, key=bare.count)])

    @cached_property
    def _patterns(self) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
        """Of a field that begins with a quote, and of any other: the text in quotes, and the text outside of them."""
        outside = rb"([^" + re.escape(self._delimiter) + rb"]*+)"
        return re.compile(rb'"((?:[^"]++|"")*+)"' + outside), re.compile(rb"()" + outside)

    def rows(self) -> Iterator[bytes]:
        """Every record as a JSON line, its empty fields left out; one that is none as `Unreadable`.

        Raises:
            InputError: two columns of one name, a header or a quote that cannot be read, or see `unpacked`.
        """
        records = self._records()
        try:
            names = self._fields(next(records, b"").removeprefix(BOM))
        except UnicodeDecodeError:
            raise InputError(f"{self.path}: its first line is not UTF-8; {RE_ENCODE}") from None
        if len(names) > MOST_COLUMNS:
            raise InputError(f"{self.path}: has over {MOST_COLUMNS:,} columns; leave out those that are no text")
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InputError(f"{self.path}: has two columns named {twice}; rename one of them")
        for record in records:
            yield self._row(record, names)

    def _row(self, record: bytes, names: list[str]) -> bytes:
        raw = record.rstrip(b"\r\n")
        if len(raw) > MOST_BYTES // ESCAPED and (size := _as_json(raw)) > MOST_BYTES:
            return Unreadable(raw, over_limit(size))
        try:
            fields = self._fields(record)
        except UnicodeDecodeError:
            return Unreadable(raw, f"not UTF-8; {RE_ENCODE}")
        if not any(fields):
            return Unreadable(raw, "empty row; remove it")
        if len(fields) != len(names):
            return Unreadable(raw, f"{len(fields)} fields, and the header has {len(names)}; mend or remove the row")
        row = {name: field for name, field in zip(names, fields, strict=True) if field}
        return (json.dumps(row, ensure_ascii=False) + "\n").encode()

    def _fields(self, record: bytes) -> list[str]:
        """The texts of a record's fields, `MOST_COLUMNS` and one more of them at most, as Python's `csv` reads them."""
        texts: list[str] = []
        at, record = 0, record.rstrip(b"\r\n")
        quoted, bare = self._patterns
        while at <= len(record) and (found := quoted.match(record, at) or bare.match(record, at)):
            if len(texts) > MOST_COLUMNS:
                break
            field = found[1].replace(b'""', b'"') + found[2]
            texts.append(field.decode("utf-8"))
            at = found.end() + 1
        return texts

    def _records(self) -> Iterator[bytes]:
        """The bytes of the header and of each record, with their line endings."""
        record, opened = bytearray(), 0
        for number, line in enumerate(self._lines(), start=1):
            opened = opened if record else number
            if isinstance(line, Overlong) or len(record) + len(line) > MOST_BYTES:
                raise InputError(
                    f"{self.path}, line {opened}: a record of over {MOST_BYTES:,} bytes; shorten it, or where a quote "
                    "that opens a field is never closed, close it or double it"
                )
            inside = bool(record)
            record += line
            bare = (line.removeprefix(BOM) if number == 1 else line).rstrip(b"\r\n")
            if not self._goes_on(bare, inside):
                yield bytes(record)
                record.clear()
        if record:
            raise InputError(
                f"{self.path}, line {opened}: a quote that opens a field is never closed; close it, or double it where "
                "it is meant as text"
            )

    def _goes_on(self, line: bytes, inside: bool) -> bool:
        """Whether a line ends within quotes, so that its record goes on; `inside` where it begins within some."""
        quoted, bare = self._patterns
        at = 0
        if inside:
            closed = _TO_QUOTE.match(line)
            if closed is None:
                return True
            at = bare.match(line, closed.end()).end() + 1  # type: ignore[union-attr]
        while at <= len(line):
            found = (quoted if line[at : at + 1] == b'"' else bare).match(line, at)
            if found is None:
                return True
            at = found.end() + 1
        return False

    def _lines(self) -> Iterator[bytes]:
        with unpacked(self.path) as handle:
            yield from bounded_lines(handle)

    @property
    def is_likely(self) -> bool:
        """Whether the first records have as many fields, more than one, and the header has different names."""
        try:
            header, *records = [
                self._fields(r.removeprefix(BOM)) for r in islice(self._records(), LOOKED_AT) if r.strip()
            ]
        except (InputError, ValueError):
            return False
        return len(set(header)) == len(header) > 1 and {len(record) for record in records} == {len(header)}

    def write(self, keep: npt.NDArray[Any], out: IO[bytes], changes: Changes | None = None) -> None:
        """Write the header and some records, as they are in the file.

        Args:
            keep: (n,) of the first n records; those past them are left out.
            changes: of some of them; fields that stay keep their bytes.

        Raises:
            InputError: see `rows`; a change is none of texts in the file's columns.
            OSError: `out` cannot be written.
        """
        records = self._records()
        header = next(records, b"")
        out.write(header)
        if changes is None:
            out.writelines(compress(records, keep))
            return
        names = self._fields(header.removeprefix(BOM))
        for number, old in compress(enumerate(records), keep):
            new = changes.at(number)
            out.write(old if new is None else self._changed(old, names, from_json(new)))

    def _changed(self, record: bytes, names: list[str], new: dict[str, Any]) -> bytes:
        """A record with other texts in some of its fields."""
        if wrong := next((k for k, v in new.items() if k not in names or not isinstance(v, str | None)), None):
            raise InputError(f"{self.path}: has no column that holds the field {wrong} of an answer's line; {AS_LINES}")
        raw, at, cells = record.rstrip(b"\r\n"), 0, list[bytes]()
        quoted, bare = self._patterns
        for name, old in zip(names, self._fields(record), strict=True):
            found = quoted.match(raw, at) or bare.match(raw, at)
            assert found is not None
            text = new.get(name) or ""
            cells.append(found[0] if text == old else self._cell(text))
            at = found.end() + 1
        return self._delimiter.join(cells) + record[len(raw) :]

    def _cell(self, text: str) -> bytes:
        """The bytes of a field that holds a text."""
        found = text.encode("utf-8", "replace")
        needs_quotes = any(byte in found for byte in (self._delimiter, b'"', b"\r", b"\n"))
        return b'"' + found.replace(b'"', b'""') + b'"' if needs_quotes else found


@dataclass(frozen=True)
class Beginning(Table):
    """The first lines of what may be a table."""

    data: bytes

    def _lines(self) -> Iterator[bytes]:
        yield from self.data.splitlines(keepends=True)
