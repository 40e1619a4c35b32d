"""Limits of a row, which hold while it is read; a longer one is known by its position and hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from typing import IO, NamedTuple

MAX_TEXT_BYTES = 1 << 24
"""Tokenising a longer text would stall the scan, and no fine-tuning row is that long."""
MOST_BYTES = 1 << 25
"""of a row; twice what its text may have, for what stands beside that"""
KEPT_BYTES = 1 << 20
"""of a row that cannot be scored; of a longer one no copy is kept"""
MOST_COLUMNS = 10_000
CHUNK = 1 << 20
"""bytes read at once of what is not kept"""
BLOCK = 1 << 20
"""bytes of lines read at once, and the rest of the last one"""


class Unreadable(bytes):
    """A row's bytes that cannot be read as one, with the reason."""

    error: str

    def __new__(cls, raw: bytes, error: str) -> Unreadable:
        """Take the row's bytes and the reason."""
        made = super().__new__(cls, raw)
        made.error = error
        return made


class Extent(NamedTuple):
    """What tells where a row is that is not kept."""

    size: int
    """bytes, without its line ending"""
    sha256: str
    """of them"""
    offset: int | None = None
    """where they begin in the file, once that is unpacked; None where a row is no piece of the file"""


class Overlong(Unreadable):
    """Stands for a row of over `MOST_BYTES`; its own bytes are a line that says which, and differ as the rows do."""

    extent: Extent
    length: int = 0
    """bytes of the line, its ending included; 0 where the row is no line of a file"""

    @classmethod
    def at(cls, extent: Extent) -> Overlong:
        """Take what is known of the row."""
        note = f"(a row of {extent.size} bytes, sha256 {extent.sha256})\n".encode()
        made = cls(note, over_limit(extent.size))
        made.extent = extent
        return made


def length_of(line: bytes) -> int:
    """Bytes that a line takes in its file, its ending included."""
    return line.length if isinstance(line, Overlong) else len(line)


def over_limit(size: int) -> str:
    """Why a row of so many bytes is not read."""
    return f"the row has {size:,} bytes, over the limit of {MOST_BYTES:,}; shorten or remove it"


class Measured:
    """Size and hash of a row that is read in pieces, less what stands at its end of `ending`, if that is not long."""

    def __init__(self, offset: int | None, ending: bytes = b"\r\n") -> None:
        self._digest, self._size, self._offset, self._held = hashlib.sha256(), 0, offset, b""
        self._ending = ending

    def add(self, piece: bytes | bytearray) -> None:
        """Take the next bytes."""
        bare = piece.rstrip(self._ending)
        if bare or len(self._held) > CHUNK:
            self._digest.update(self._held)
            self._digest.update(bare)
            self._size += len(self._held) + len(bare)
            self._held = b""
        self._held += piece[len(bare) :]

    @property
    def row(self) -> Overlong:
        """What stands for it."""
        return Overlong.at(Extent(self._size, self._digest.hexdigest(), self._offset))


def bounded_lines(handle: IO[bytes], offset: int | None = 0) -> Iterator[bytes]:
    """Every line with its line ending; of one that is too long only what stands for it.

    Args:
        offset: of the first one in its file; None where the lines are those of none.
    """
    read = 0
    for line in iter(partial(handle.readline, MOST_BYTES + 1), b""):
        if _is_whole(line):
            read += len(line)
            yield line
            continue
        row, size = _overlong(line, handle, None if offset is None else offset + read)
        row.length = size
        del line
        read += size
        yield row


def bounded_blocks(handle: IO[bytes]) -> Iterator[bytes]:
    """The lines of a file as `bounded_lines` gives them, many in one piece."""
    offset = 0
    while block := handle.read(min(BLOCK, MOST_BYTES)):  # so that what ends within it is not too long
        whole = block.rfind(b"\n") + 1
        last = block[whole:]
        if last:
            last += handle.readline(MOST_BYTES + 1 - len(last))
        if _is_whole(last):
            offset += whole + len(last)
            yield block[:whole] + last
            continue
        row, size = _overlong(last, handle, offset + whole)
        del last
        offset += whole + size
        yield block[:whole] + row


def _is_whole(line: bytes) -> bool:
    return len(line) <= MOST_BYTES or line.endswith(b"\n")


def _overlong(piece: bytes, handle: IO[bytes], offset: int | None) -> tuple[Overlong, int]:
    """What stands for a line that is too long, and its bytes with the line ending.

    Args:
        piece: its beginning, as far as it has been read.
        offset: where it begins.
    """
    row, size = Measured(offset), 0
    while piece:
        row.add(piece)
        size += len(piece)
        piece = b"" if piece.endswith(b"\n") else handle.readline(CHUNK)
    return row.row, size
