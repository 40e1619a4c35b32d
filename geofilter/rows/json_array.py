"""A file that is one JSON array: its elements as rows, found as ranges of bytes without reading all of it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy.typing as npt

from geofilter.errors import InputError
from geofilter.rows.bounded import MOST_BYTES, Measured, Overlong
from geofilter.rows.changes import Changes
from geofilter.rows.convert import convert
from geofilter.rows.packing import packed_as, unpacked
from geofilter.rows.strict_json import loads

CHUNK = 1 << 20
"""bytes read at once, and more while an element is longer"""
BLANK = b" \t\r\n"
BOM = b"\xef\xbb\xbf"

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
# Up to the next bracket, or to a string that does not end here; between elements to the next comma, too.
_INSIDE = re.compile(rb'(?:[^"\[\]{}]++|' + _STRING + rb")*+", re.DOTALL)
_BETWEEN = re.compile(rb'(?:[^"\[\]{},]++|' + _STRING + rb")*+", re.DOTALL)
_IN_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)


def end_of_element(data: bytes | bytearray, at: int, depth: int) -> tuple[int, int]:
    """Scan for the comma or bracket that ends an array's element, strings and nesting aside.

    Args:
        at: where to go on.
        depth: brackets that are open there.

    Returns:
        the position of that comma or bracket, with a depth of -1; or where to go on when there are more bytes, and the
        depth there.
    """
    while True:
        found = (_INSIDE if depth else _BETWEEN).match(data, at)
        at = found.end() if found else at
        if at == len(data) or data[at] == 0x22:  # a string that goes on past these bytes
            return at, depth
        if data[at] in b"[{":
            depth += 1
        elif depth:
            depth -= 1
        else:
            return at, -1
        at += 1


class Elements:
    """The elements of the array in a file, each as the blanks before it, its bytes, and the blanks after it.

    Of an element that is too long what stands for it, see `bounded.Overlong`, without blanks.

    Raises:
        InputError: while they are read: the array is cut off or damaged, see also `unpacked`.
    """

    opening = b""
    """up to the opening bracket; known with the first element"""
    closing = b""
    """from the blanks before the closing bracket to the end of the file; known when all elements were read"""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data = bytearray()
        self._start = 0
        """bytes of the file before `_data`"""

    def __iter__(self) -> Iterator[tuple[bytes, bytes, bytes]]:
        with unpacked(self._path) as handle:
            yield from self._elements(handle)

    def _elements(self, handle: IO[bytes]) -> Iterator[tuple[bytes, bytes, bytes]]:
        while b"[" not in self._data and self._more(handle):
            pass
        self.opening = self._take(self._data.find(b"[") + 1)
        number, at, depth = 1, 0, 0
        while True:
            at, depth = end_of_element(self._data, at, depth)
            if depth >= 0:
                if self._is_long(number):
                    row, more = self._skipped(handle, number, at, depth)
                    if not more:
                        self.closing = self._rest(handle, 0)
                    yield b"", row, b""
                    if not more:
                        return
                    self._take(1)
                    number, at, depth = number + 1, 0, 0
                    continue
                if not self._more(handle):
                    if not depth and _is_object(self._data):
                        end = len(self._data.rstrip(BLANK))
                        raise self._damaged(f"its closing bracket is missing behind row {number},", end)
                    raise self._damaged(f"the file ends in row {number}, which begins")
                continue
            more, text = self._data[at : at + 1] == b",", bytes(self._data[:at])
            element = text.strip(BLANK)
            if not element and (more or number > 1):
                raise self._damaged(f"row {number} is missing between two commas" if more else "a comma too much", at)
            lead = text[: len(text) - len(text.lstrip(BLANK))]
            trail = text[len(lead) + len(element) :]
            if not more:
                self.closing = (trail if element else b"") + self._rest(handle, at)
                trail = b""
            if element:
                yield lead, element, trail
            if not more:
                return
            self._take(at + 1)
            number, at, depth = number + 1, 0, 0

    def _is_long(self, number: int) -> bool:
        """Whether what is read of an element is more than a row may have, without the blanks before it."""
        if len(self._data) <= MOST_BYTES:
            return False
        bare = len(self._data.lstrip(BLANK))
        if len(self._data) - bare > MOST_BYTES:
            raise self._damaged(f"too many blanks before row {number}")
        return bare > MOST_BYTES

    def _skipped(self, handle: IO[bytes], number: int, at: int, depth: int) -> tuple[Overlong, bool]:
        """What stands for an element of which no more than the bytes read so far is held; and whether more follow.

        Args:
            at: where the scan for its end stands, and at which `depth`.
        """
        begins = self._start + len(self._data) - len(self._data.lstrip(BLANK))
        row, lead, in_string = Measured(begins, BLANK), True, False
        while True:
            if in_string:
                at = _IN_STRING.match(self._data, at).end()  # type: ignore[union-attr]
                in_string = at == len(self._data) or self._data[at] != 0x22
                at += not in_string
            if not in_string:
                at, depth = end_of_element(self._data, at, depth)
                in_string = depth >= 0 and at < len(self._data)
                at += in_string
            piece = self._take(at)
            row.add(piece.lstrip(BLANK) if lead else piece)
            lead, at = lead and not piece.strip(BLANK), 0
            if depth < 0:
                return row.row, self._data[:1] == b","
            if not self._more(handle):
                raise self._damaged(f"the file ends in row {number}, a long one,", len(self._data))

    def _more(self, handle: IO[bytes]) -> bool:
        read = handle.read(max(CHUNK, min(len(self._data), MOST_BYTES)))
        self._data += read
        return bool(read)

    def _take(self, n: int) -> bytes:
        taken = bytes(self._data[:n])
        del self._data[:n]
        self._start += n
        return taken

    def _rest(self, handle: IO[bytes], at: int) -> bytes:
        """From the closing bracket on."""
        while not self._data[at + 1 :].strip(BLANK) and self._more(handle):
            if len(self._data) > MOST_BYTES:
                raise self._damaged("too many blanks behind its closing bracket", at + 1)
        after = bytes(self._data[at + 1 :])
        if after.lstrip(BLANK)[:1] in (b"[", b"{"):
            parts = shlex.quote('if type == "array" then .[] else . end')
            with self._path.open("rb") as raw:
                packed = packed_as(raw.read(16))
            raise InputError(
                f"{self._path}: holds a JSON array and more JSON behind it, at byte {self._start + at + 1:,}; "
                f"{convert(str(self._path), packed, f'jq -c {parts}', 'rows', '.jsonl')}"
            )
        if after.strip(BLANK):
            raise self._damaged("text after its closing bracket", at + 1)
        return bytes(self._data[at:])

    def _damaged(self, what: str, at: int = 0) -> InputError:
        return InputError(
            f"{self._path}: a JSON array that is cut off or damaged: {what} at byte {self._start + at:,}; get a "
            "complete copy, or mend it there"
        )


def _is_object(text: bytes | bytearray) -> bool:
    try:
        return isinstance(loads(text.decode("utf-8")), dict)
    except (ValueError, RecursionError):
        return False


@dataclass(frozen=True, slots=True)
class JsonArray:
    """A file whose rows are the elements of one JSON array."""

    path: Path
    packed: str
    """see `packing.packed_as`"""
    endings: ClassVar = (".json",)

    def rows(self) -> Iterator[bytes]:
        """Every element's bytes.

        Raises:
            InputError: see `Elements`.
        """
        for _, element, _ in Elements(self.path):
            yield element

    def write(self, keep: npt.NDArray[Any], out: IO[bytes], changes: Changes | None = None) -> None:
        """Write some elements as an array, laid out as the file is.

        Args:
            keep: (n,) of the first n elements; those past them are left out.
            changes: of some of them.

        Raises:
            InputError: see `Elements`.
            OSError: `out` cannot be written.
        """
        elements, before, changes = Elements(self.path), b"", changes or Changes()
        for i, (lead, element, trail) in enumerate(elements):
            if i == 0:
                before = elements.opening + lead  # what stands before the first element, whichever that will be
            if i < len(keep) and keep[i]:
                out.write((before or b"," + lead) + (changes.at(i) or element) + trail)
                before = b""
        out.write((before and elements.opening) + elements.closing)
