"""Data files as lines: plain, packed (.gz and .zst, told by their ending) or Parquet."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from geofilter.errors import InputError
from geofilter.rows import parquet

READ = ".jsonl, .jsonl.gz, .jsonl.zst or .parquet"


def _check(path: Path) -> None:
    """Refuse what is no data file.

    Raises:
        InputError: missing, a folder, empty, of an unreadable kind, or not permitted.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give a data file ({READ})")
    if path.suffix in {".csv", ".arrow"}:
        raise InputError(f"{path}: {path.suffix} files are not read; convert it ({READ})")
    if path.is_fifo():
        raise InputError(f"{path}: is a pipe, and the data are read more than once; write them to a file first")
    try:
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty; nothing to read")
        with path.open("rb"):
            pass
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the path of a data file ({READ})") from None
    except PermissionError:
        raise InputError(f"{path}: permission denied; make the file readable") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); give the path of a data file") from None


def read_lines(path: Path) -> Iterator[bytes]:
    """Every line of the file, with its line ending; of a Parquet file every row as a line, see `parquet.lines`.

    Raises:
        InputError: no data file, or one that is damaged, see `_check`.
    """
    _check(path)
    if path.suffix == parquet.ENDING:
        yield from parquet.lines(path)
        return
    try:
        with open_packed(path) as handle:
            yield from handle
    except damage(path) as error:
        raise InputError(f"{path}: cannot be read to its end ({error}); get a complete copy") from None


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


def split_name(path: Path) -> tuple[str, str]:
    """Stem and ending of a data file: `a.jsonl.gz` is `a` and `.jsonl.gz`."""
    suffix = "".join(path.suffixes[-2:]) if path.suffix in ENDINGS else path.suffix
    return path.name.removesuffix(suffix), suffix or ".jsonl"
