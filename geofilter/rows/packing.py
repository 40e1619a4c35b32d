"""Packed files: what packs one that is read is told by its first bytes; one that is written, by its ending."""

from __future__ import annotations

import io
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from geofilter.errors import InputError

GZIP, ZSTD, BZIP2, XZ = ENDINGS = (".gz", ".zst", ".bz2", ".xz")

CHUNK = 1 << 16
"""bytes read at once"""
FREE = 1 << 30
"""bytes that any file may unpack to"""
MOST_TIMES = 1000
"""how many times its own size a larger one may unpack to; text is seldom packed to a hundredth"""
FREE_ROWS = 1 << 20
"""rows that any file may have"""
ROWS_PER_BYTE = 100
"""of a packed file, that a larger one may have: no text takes so little"""
XZ_MEMORY = 1 << 28
"""bytes that unpacking xz may take, four times what its highest level needs"""
WRITTEN_BY_NONE = (
    ".zip",
    ".7z",
    ".rar",
    ".tar",
    ".tgz",
    ".lz4",
    ".lzma",
    ".lz",
    ".br",
    ".sz",
    ".snappy",
    ".z",
    ".xlsx",
)
"""what a name may end in that is never written"""


def packed_as(start: bytes) -> str:
    """What packs a file that begins with these bytes, one of `ENDINGS`; empty where nothing does."""
    if start[:2] == b"\x1f\x8b":
        return GZIP
    # A skippable frame may stand before those of data.
    if start[:4] == b"\x28\xb5\x2f\xfd" or (start[:1] and start[0] >> 4 == 5 and start[1:4] == b"\x2a\x4d\x18"):
        return ZSTD
    if start[:3] == b"BZh" and start[4:10] in (b"\x31\x41\x59\x26\x53\x59", b"\x17\x72\x45\x38\x50\x90"):
        return BZIP2
    return XZ if start[:6] == b"\xfd7zXZ\0" else ""


def ending_of(path: Path) -> str:
    """What a file's name says that it is packed with, one of `ENDINGS`; empty where it says nothing."""
    ending = path.suffix.lower()
    return ending if ending in ENDINGS else ""


def split_name(path: Path) -> tuple[str, str]:
    """Stem and ending of a data file: `a.jsonl.gz` is `a` and `.jsonl.gz`."""
    suffix = "".join(path.suffixes[-2:]) if ending_of(path) else path.suffix
    return path.name.removesuffix(suffix), suffix or ".jsonl"


def named_as(path: Path) -> tuple[str, str]:
    """What a name says of the file: the ending of its format, in small letters, and what it is packed with."""
    packed = ending_of(path)
    return split_name(path)[1].lower().removesuffix(packed), packed


def _zstd() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def _damage(packed: str) -> tuple[type[Exception], ...]:
    """What reading a damaged or cut-off file raises."""
    if packed == ZSTD:
        return EOFError, OSError, _zstd().ZstdError
    if packed == XZ:
        import lzma

        return EOFError, OSError, lzma.LZMAError
    return EOFError, OSError, zlib.error


@contextmanager
def unpacked(path: Path, name: str | None = None) -> Iterator[IO[bytes]]:
    """Open a file for binary reading, through what it is packed with. Nothing else is to be done while it is open.

    Args:
        name: what errors call the file; by default its path.

    Raises:
        InputError: it is cut off or damaged, cannot be read, or unpacks to far more than its size.
    """
    damage: tuple[type[Exception], ...] = (OSError,)
    try:
        with path.open("rb") as raw:
            packed = packed_as(raw.read(16))
            damage = _damage(packed)
            raw.seek(0)
            with _opened(raw, packed, "rb") as handle:
                yield _bounded(handle, raw, name or str(path)) if packed else handle
    except damage as error:
        raise InputError(f"{name or path}: cannot be read to its end ({error}); get a complete copy") from None


@contextmanager
def packing(raw: IO[bytes], ending: str) -> Iterator[IO[bytes]]:
    """A writer that packs into an open file; the same bytes give the same file.

    Args:
        ending: of `ENDINGS`, or empty.
    """
    with _opened(raw, ending, "wb") as packed:
        yield packed


@contextmanager
def _opened(raw: IO[bytes], packed: str, mode: str) -> Iterator[IO[bytes]]:
    if packed == GZIP:
        import gzip

        # No name and no time in the header.
        with gzip.GzipFile(filename="", mode=mode, fileobj=raw, mtime=0) as handle:
            yield cast("IO[bytes]", handle)
    elif packed == ZSTD:
        with _zstd().open(raw, mode) as handle:
            yield handle
    elif packed == BZIP2:
        import bz2

        if mode == "rb":
            yield _streams(raw, bz2.BZ2Decompressor)
            return
        with bz2.open(raw, "wb") as handle:
            yield cast("IO[bytes]", handle)
    elif packed == XZ:
        import lzma

        if mode == "rb":
            yield _streams(raw, partial(lzma.LZMADecompressor, memlimit=XZ_MEMORY))
            return
        with lzma.open(raw, "wb") as handle:
            yield cast("IO[bytes]", handle)
    else:
        yield raw


def _bounded(handle: IO[bytes], raw: IO[bytes], name: str) -> IO[bytes]:
    return cast("IO[bytes]", io.BufferedReader(_Bounded(handle, raw, name), CHUNK))


class _Bounded(io.RawIOBase):
    """What a packed file unpacks to; refuses one that unpacks to far more than real data do."""

    def __init__(self, handle: IO[bytes], raw: IO[bytes], name: str) -> None:
        self._handle, self._raw, self._name = handle, raw, name
        self._made = self._lines = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        n = self._handle.readinto(buffer)  # type: ignore[attr-defined]
        self._made += n
        self._lines += bytes(buffer[:n]).count(b"\n")
        if self._made > FREE and self._made > MOST_TIMES * self._raw.tell():
            raise self._refused(f"unpacks to over {MOST_TIMES:,} times its size")
        if self._lines > FREE_ROWS and self._lines > ROWS_PER_BYTE * self._raw.tell():
            raise self._refused(f"has over {ROWS_PER_BYTE} lines a byte of its size")
        return int(n)

    def _refused(self, what: str) -> InputError:
        return InputError(
            f"{self._name}: {what}, as a file does that is made to fill disk or memory; unpack it and give what comes "
            "out if you trust it"
        )


def _streams(raw: IO[bytes], make: Callable[[], Any]) -> IO[bytes]:
    return cast("IO[bytes]", io.BufferedReader(_Streams(raw, make), CHUNK))


class _Streams(io.RawIOBase):
    """What is packed in streams one behind the other, as xz and bzip2 have them; the library's own readers pass over
    what follows a stream and is none, were it a stream behind padding. Padding is bytes that are 0.
    """

    def __init__(self, raw: IO[bytes], make: Callable[[], Any]) -> None:
        self._raw, self._make = raw, make
        self._stream, self._ahead = make(), b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if self._stream.eof:
                self._ahead = (self._ahead or self._stream.unused_data).lstrip(b"\0")
                while not self._ahead:
                    if not (read := self._raw.read(CHUNK)):
                        return 0
                    self._ahead = read.lstrip(b"\0")
                self._stream = self._make()
            if self._stream.needs_input and not self._ahead:
                self._ahead = self._raw.read(CHUNK)
                if not self._ahead:
                    raise EOFError("Compressed file ended before the end-of-stream marker was reached")
            data, self._ahead = self._ahead, b""
            if made := self._stream.decompress(data, len(buffer)):
                buffer[: len(made)] = made
                return len(made)
