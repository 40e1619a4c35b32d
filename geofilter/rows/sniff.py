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
from geofilter.rows.json_array import BLANK, end_of_element
from geofilter.rows.packing import packed_as

_BEFORE = re.compile(rb"(?:\xef\xbb\xbf|[ \t\r\n])*+")
_CR_ONLY = re.compile(rb"\}[ \t]*\r[ \t\r]*\{")
_AROUND = re.compile(r'"([^"\\]+)"\s*:\s*\[\s*\{\s*"([^"\\]+)"')
_NOT_ROWS = {"role", "from", "content", "value", "function"}
"""keys of messages and tools: a list of objects that have them is a column of a row, not a list of rows"""
_UNPACK = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz"}
_OTHER = (
    (b"PK\x03\x04", "a zip archive, or a spreadsheet", "unzip it and give the data files in it, or save it as CSV"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it and give the data files in it"),
    (b"Rar!\x1a\x07", "a RAR archive", "unpack it and give the data files in it"),
    (b"\x04\x22\x4d\x18", "packed with LZ4", "unpack it (lz4 -d), or pack it with zstd"),
    (b"SQLite format 3\0", "an SQLite database", "write its rows to a CSV file (sqlite3 -csv -header)"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "write its rows to a Parquet file"),
    (b"Obj\x01", "an Avro file", "write its rows to a Parquet file"),
    (b"ORC", "an ORC file", "write its rows to a Parquet file"),
    (b"\x80\x04\x95", "a Python pickle", "write its rows to a JSONL file"),
)


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

    def refuse_binary(self) -> None:
        """Refuse an archive, a packed file in a packed one, another program's format, or text that is not UTF-8."""
        for magic, what, remedy in _OTHER:
            if self.data.startswith(magic):
                raise InputError(f"{self.name}: is {what}; {remedy}")
        if self.data[257:262] == b"ustar":
            raise InputError(f"{self.name}: is a tar archive; unpack it (tar -xf) and give the data files in it")
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
            raise InputError(f"{self.name}: is {called} text; {self._through(f'iconv -f {called} -t UTF-8', 'utf8-')}")

    def _through(self, program: str, prefix: str = "") -> str:
        """What to do so that a program converts the file; `prefix` is that of the new file's name."""
        if self.name == "-":
            return f"pipe it through {program}"
        new = f"{prefix}{Path(self.name).name.removesuffix(self.packed)}" if prefix else "rows.jsonl"
        old, new = shlex.quote(self.name), shlex.quote(new)
        if self.packed:
            return f"convert it: {_UNPACK[self.packed]} -dc {old} | {program} > {new}"
        return f"convert it: {program} < {old} > {new}"

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

    @property
    def is_array(self) -> bool:
        """Whether the file is one JSON array of objects; not JSONL whose first line is broken, or is a list."""
        text = self._text
        if (found := re.match(rb"\[[ \t\r\n]*+([{\]])", text)) is None:
            return False
        if self._first is not None and b"\n" in text and self._more:
            return False
        start = found.start(1)
        end, depth = end_of_element(text, start, 0)
        if found[1] == b"]" or (depth < 0 and isinstance(_parsed(text[start:end]), dict)):
            return True
        # The first element is broken, or too long to be seen whole; or these are lines after all.
        return not isinstance(_parsed(text.partition(b"\n")[2].partition(b"\n")[0]), dict)

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
            remedy = self._through("tr '\\r' '\\n'", "lf-")
            raise InputError(f"{self.name}: its lines end in CR only, as on old Macs; {remedy}")

    def refuse_objects(self) -> None:
        """Refuse objects over several lines, and an object around the list of rows."""
        if self._text[:1] != b"{" or self.is_cut:
            return
        spread = self._first is None
        found = self._spread() if spread else None if self._more else self._first
        if not isinstance(found, dict):
            return
        lists = [
            name
            for name, value in found.items()
            if isinstance(value, list) and value and all(isinstance(v, dict) and not _NOT_ROWS & set(v) for v in value)
        ]
        if len(lists) == 1 and (spread or len(found) == 1):
            take = self._through(f"jq -c '.[{json.dumps(lists[0])}][]'")
            raise InputError(f"{self.name}: is one JSON object around the list of rows, its `{lists[0]}`; {take}")
        if spread:
            one = self._through("jq -c .")
            raise InputError(f"{self.name}: holds a JSON object over several lines, and a row is one line; {one}")

    def _spread(self) -> Any:
        """The object that begins on the first line and ends, without a fault, on a later one; None where none does.

        Of one that is longer than these bytes what can be seen.
        """
        data = self._text if self.whole else self._text[: self._text.rfind(b"\n") + 1]
        text = data.decode("utf-8", "replace").rstrip()
        try:
            found, end = json.JSONDecoder().raw_decode(text)
        except (ValueError, RecursionError) as error:
            if self.whole or getattr(error, "pos", -1) < len(text):
                return None
            seen = _AROUND.search(text)
            return {seen[1]: [{seen[2]: None}]} if seen else {}
        return found if "\n" in text[:end] else None


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
