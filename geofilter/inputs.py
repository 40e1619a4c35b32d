"""Data files as lines: plain, packed or Parquet; named by patterns or read from a pipe."""

from __future__ import annotations

import glob
import hashlib
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from geofilter import parquet
from geofilter.errors import InputError
from geofilter.packed import damage, open_packed

READ = ".jsonl, .jsonl.gz, .jsonl.zst or .parquet"

OUTPUTS = ("filtered", "removed", "quarantined", "judge", "report")
"""what `filter` and `judge` put between the stem of a data file and its ending"""


def expand(data: Sequence[str]) -> tuple[str, ...]:
    """File names, those with * ? or [] that name no file taken as patterns: `data/*.jsonl`, `data/**/*.jsonl`.

    A pattern passes over what earlier commands have written beside the data, see `OUTPUTS`.

    Raises:
        InputError: a pattern that matches nothing.
    """
    out: list[str] = []
    for text in data:
        if not glob.has_magic(text) or Path(text).exists():
            out.append(text)
            continue
        # Not Path.glob, which takes no absolute pattern.
        found = sorted(name for name in glob.glob(text, recursive=True) if _is_input(name))  # noqa: PTH207
        if not found:
            raise InputError(f"{text}: matches no file; check the pattern and the folder")
        out += found
    return tuple(out)


def _is_input(name: str) -> bool:
    return Path(name).is_file() and not {f".{part}" for part in OUTPUTS} & set(Path(name).suffixes)


def spool(stream: IO[bytes], folder: Path) -> Path:
    """Write a stream to a file of `folder` that is named by its content, so that the same rows are the same file.

    Raises:
        InputError: the stream is empty, or the folder cannot be written.
    """
    digest = hashlib.sha256()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as scratch:
            try:
                while part := stream.read(1 << 20):
                    digest.update(part)
                    scratch.write(part)
                scratch.close()
                if not Path(scratch.name).stat().st_size:
                    raise InputError("-: standard input is empty; pipe rows into it")
                return Path(scratch.name).replace(folder / f"stdin-{digest.hexdigest()[:12]}.jsonl")
            finally:
                Path(scratch.name).unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror}); call it from another folder") from None


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
