"""Compressed files, told by their ending: .gz and .zst."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

ENDINGS = (".gz", ".zst")


def _zstd() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


def damage(path: Path) -> tuple[type[Exception], ...]:
    """What reading a damaged or cut-off file of this ending raises."""
    return (EOFError, OSError, zlib.error, *((_zstd().ZstdError,) if path.suffix == ".zst" else ()))


def open_packed(path: Path) -> IO[bytes]:
    """Open a file for binary reading, through what its ending says it is packed with.

    Raises:
        OSError: as `open`.
    """
    if path.suffix == ".gz":
        return cast("IO[bytes]", gzip.open(path, "rb"))
    if path.suffix == ".zst":
        return cast("IO[bytes]", _zstd().open(path, "rb"))
    return path.open("rb")


@contextmanager
def packing(raw: IO[bytes], ending: str) -> Iterator[IO[bytes]]:
    """A writer that packs into an open file; the same bytes give the same file."""
    if ending == ".gz":
        # No name and no time in the header.
        with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
            yield cast("IO[bytes]", packed)
    elif ending == ".zst":
        with _zstd().open(raw, "wb") as packed:
            yield packed
    else:
        yield raw
