"""What the text in a data file is, told by its first bytes: lines, one array, or nothing that has rows."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from geofilter.errors import InputError
from geofilter.rows.convert import convert
from geofilter.rows.foreign import foreign
from geofilter.rows.json_array import BLANK, end_of_element
from geofilter.rows.packing import packed_as
from geofilter.rows.strict_json import refuse_large
from geofilter.rows.table import Beginning

_BEFORE = re.compile(rb"(?:\xef\xbb\xbf|[ \t\r\n])*+")
_CR_ONLY = re.compile(rb"\}[ \t]*\r[ \t\r]*\{")
_AROUND = re.compile(r'"([^"\\]+)"\s*:\s*\[\s*\{\s*"([^"\\]+)"')
_NOT_ROWS = {"role", "from", "content", "value", "function"}
"""keys of messages and tools: a list of objects that have them is a column of a row, not a list of rows"""
_BY_KEY = re.compile(r'\{\s*"[^"\\]+"\s*:\s*(?=\{)')
_SEEN = 50
"""elements of an array that are looked at"""


@dataclass(frozen=True)
class Head:
    """The beginning of a data file.

    Its `refuse` methods raise InputError with a remedy.
    """

    name: str
    """what errors call the file"""
    data: bytes
    """its first bytes, unpacked"""
    whole: bool
    """whether that is all of it"""
    packed: str
    """what it is packed with, see `packing.packed_as`"""

    def refuse_foreign(self) -> None:
        """Refuse an archive, a packed file in a packed one, another program's format, or text that is not UTF-8."""
        if (found := foreign(self.data)) is not None:
            raise InputError(f"{self.name}: is {found[0]}; {found[1]}")
        if self.packed and (packed_as(self.data) or self.data.startswith((b"PAR1", b"ARROW1", b"\xff\xff\xff\xff"))):
            what = "packed twice" if packed_as(self.data) else f"a Parquet or Arrow file packed as {self.packed}"
            raise InputError(f"{self.name}: is {what}; unpack it once and give what comes out")
        encoding = json.detect_encoding(self.data[:4])
        if encoding.startswith("utf-8"):
            return
        # Without a byte order mark it is a guess from bytes that are 0.
        marked = encoding in ("utf-16", "utf-32")
        if marked or self.data[:400].decode(encoding, "ignore").lstrip()[:1] in ("{", "["):
            called = encoding.upper() if marked else f"{encoding[:6].upper()}{encoding[-2:].upper()}"
            raise InputError(f"{self.name}: is {called} text; {self._convert(f'iconv -f {called} -t UTF-8', 'utf8')}")

    def _convert(self, program: str, made: str) -> str:
        return convert(self.name, self.packed, program, made)

    def _jq(self, program: str) -> str:
        return convert(self.name, self.packed, f"jq -c {shlex.quote(program)}", "rows", ".jsonl")

    @cached_property
    def _text(self) -> bytes:
        return _BEFORE.sub(b"", self.data, count=1)

    @cached_property
    def _first(self) -> Any:
        """The JSON on the first line; None where it is none."""
        return _parsed(self._text.partition(b"\n")[0])

    @property
    def _more(self) -> bool:
        """Whether there is something after the first line."""
        return not self.whole or bool(self._text.partition(b"\n")[2].strip(BLANK))

    @property
    def is_cut(self) -> bool:
        """Whether the first line is an object that these bytes do not hold whole."""
        return not self.whole and self._text[:1] == b"{" and b"\n" not in self._text

    @cached_property
    def _second(self) -> Any:
        """The JSON on the second line; None where it is none."""
        return _parsed(self._text.partition(b"\n")[2].partition(b"\n")[0])

    @cached_property
    def _seen(self) -> list[Any]:
        """The first elements of an array, up to one that is broken or not here to its end."""
        out, at = list[Any](), 1
        while len(out) < _SEEN:
            end, depth = end_of_element(self._text, at, 0)
            value = _parsed(self._text[at:end], _BROKEN) if depth < 0 else _BROKEN
            if value is _BROKEN:
                break
            out.append(value)
            if self._text[end : end + 1] != b",":
                break
            at = end + 1
        return out

    @property
    def is_array(self) -> bool:
        """Whether the file is a JSON array that holds objects, or nothing; not JSONL whose first line is broken, or is
        a list of something else. What may stand behind the array is another matter.
        """
        if (found := re.match(rb"\[[ \t\r\n]*+(.)?", self._text)) is None:
            return False
        if isinstance(self._first, list) and self._more:
            return _objects(self._first)
        if found[1] == b"]" or _objects(self._seen):
            return True
        # The first object is broken, or too long to be seen whole; or these are lines after all.
        return found[1] == b"{" and not isinstance(self._second, dict)

    def refuse_lists(self) -> None:
        """Refuse arrays of what is no row, whether the file is one of them or has one a line."""
        if self._text[:1] != b"[":
            return
        if isinstance(self._first, list) and self._more:
            if isinstance(self._second, list) and (_messages(self._first) or not _objects(self._first)):
                write = self._jq("{messages: .}") if _messages(self._first) else _AS_OBJECTS
                raise InputError(f"{self.name}: its lines are lists, and a row is an object; {write}")
        elif self._seen and not _objects(self._seen) and not isinstance(self._second, dict):
            what = {"list": "lists", "str": "texts"}.get(type(self._seen[0]).__name__, "numbers")
            write = _AS_OBJECTS
            if isinstance(self._seen[0], list) and _objects(self._seen[0]):
                write = self._jq(".[] | {messages: .}" if _messages(self._seen[0]) else ".[][]")
            raise InputError(f"{self.name}: is a JSON array of {what}, and a row is an object; {write}")

    @property
    def is_json(self) -> bool:
        """Whether the text begins as JSON does."""
        return self._text[:1] in (b"{", b"[") and b"\0" not in self._text[:16]

    @property
    def is_table(self) -> bool:
        """Whether the text, which does not begin as JSON, looks like a table; not a note before lines of JSON."""
        text = self.data if self.whole else self.data[: self.data.rfind(b"\n") + 1]
        return not isinstance(self._second, dict) and Beginning(Path(self.name), "", text).is_likely

    @property
    def is_object(self) -> bool:
        """Whether the first line is a JSON object."""
        return isinstance(self._first, dict)

    def refuse_cr(self, between: re.Pattern[bytes] = _CR_ONLY) -> None:
        """Refuse lines that end in CR only.

        Args:
            between: what stands between two rows then.
        """
        if b"\n" not in self._text and between.search(self._text):
            remedy = self._convert("tr '\\r' '\\n'", "lf")
            raise InputError(f"{self.name}: its lines end in CR only, as on old Macs; {remedy}")

    def refuse_objects(self) -> None:
        """Refuse objects over several lines, and an object that holds the rows."""
        if self._text[:1] != b"{" or self.is_cut:
            return
        spread = self._first is None
        found, behind = self._spread() if spread else (None if self._more else self._first, "")
        if not isinstance(found, dict):
            return
        lists = [
            name
            for name, value in found.items()
            if isinstance(value, list) and value and all(isinstance(v, dict) and not _NOT_ROWS & set(v) for v in value)
        ]
        if lists and (spread or len(found) == len(lists)):
            names = ", ".join(f"`{name}`" for name in lists)
            what = f"around the list of rows, its {names}"
            if len(lists) > 1:
                what = f"around several lists of rows, {names}; choose one of them"
            take = self._jq(f".[{json.dumps(lists[0], ensure_ascii=False)}][]")
            raise InputError(f"{self.name}: is one JSON object {what}; {take}")
        if _is_columns(found):
            raise InputError(
                f"{self.name}: is one JSON object of columns, and a row is an object; write it row by row as JSONL (of "
                "pandas to_json with orient='records', lines=True)"
            )
        if _is_by_key(found):
            raise InputError(f"{self.name}: is one JSON object that holds the rows by a key; {self._jq('.[]')}")
        if spread and behind == ",":
            raise InputError(
                f"{self.name}: holds JSON objects over several lines with commas between them; put [ before the first "
                "and ] behind the last, with no comma before it"
            )
        if spread:
            raise InputError(
                f"{self.name}: holds a JSON object over several lines, and a row is one line; {self._jq('.')}"
            )

    def _spread(self) -> tuple[Any, str]:
        """The object that begins on the first line and ends, without a fault, on a later one, None where none does;
        and the character behind it.

        Of one that is longer than these bytes what can be seen.
        """
        data = self._text if self.whole else self._text[: self._text.rfind(b"\n") + 1]
        text = data.decode("utf-8", "replace").rstrip()
        try:
            found, end = _DECODER.raw_decode(text)
        except (ValueError, RecursionError) as error:
            if self.whole or getattr(error, "pos", -1) < len(text):
                return None, ""
            return _beginning(text), ""
        return found if "\n" in text[:end] else None, text[end:].lstrip()[:1]


_DECODER = json.JSONDecoder()
_BROKEN = object()
_AS_OBJECTS = 'write each row as one, such as {"prompt": "...", "response": "..."}'


def _parsed(line: bytes, otherwise: Any = None) -> Any:
    try:
        text = line.decode("utf-8")
        refuse_large(text)
        return json.loads(text)
    except (ValueError, RecursionError):
        return otherwise


def _beginning(text: str) -> dict[str, Any]:
    """What an object holds whose end is not in the text."""
    if (keyed := _BY_KEY.match(text)) is not None:
        try:
            row, _ = _DECODER.raw_decode(text, keyed.end())
        except (ValueError, RecursionError):
            return {}
        return {"first": row, "second": row}
    seen = _AROUND.search(text)
    return {seen[1]: [{seen[2]: None}]} if seen else {}


def _objects(values: list[Any]) -> bool:
    return any(isinstance(value, dict) for value in values)


def _messages(value: Any) -> bool:
    """Whether it is a list of messages."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(v, dict) and {"role", "from"} & set(v) for v in value)
    )


def _is_columns(found: dict[str, Any]) -> bool:
    """Whether an object holds columns: lists of as many values, objects of values by their row's number, or `data`."""
    values = list(found.values())
    if isinstance(found.get("columns"), list) and isinstance(found.get("data"), list):
        return True
    if not values or len({len(value) if isinstance(value, list | dict) else 0 for value in values} | {0}) != 2:
        return False
    if all(isinstance(value, list) for value in values):
        return len(values[0]) > 1 and not any(isinstance(v, list | dict) for value in values for v in value)
    return all(isinstance(value, dict) and all(key.isdigit() for key in value) for value in values)


def _is_by_key(found: dict[str, Any]) -> bool:
    """Whether an object holds rows of the same keys."""
    rows = list(found.values())
    if len(rows) < 2 or not all(isinstance(row, dict) and len(row) > 1 and not _NOT_ROWS & set(row) for row in rows):
        return False
    return all(set(row) == set(rows[0]) for row in rows)
