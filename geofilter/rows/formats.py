"""What a data file is: lines, an array, a table, Parquet or Arrow; told by its content, and of tables by its name.

A format has `rows`, the bytes of each row as one JSON object, which are what is scored and hashed; all but `Jsonl` have
`write`, which writes some of the rows as they are in the file, because their rows are not the file's own lines.
"""

from __future__ import annotations

import glob
import os
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from geofilter.errors import InputError
from geofilter.rows import arrow, parquet, table
from geofilter.rows.arrow import Arrow
from geofilter.rows.bounded import bounded_blocks, bounded_lines
from geofilter.rows.json_array import JsonArray
from geofilter.rows.packing import named_as, packed_as, split_name, unpacked
from geofilter.rows.parquet import Parquet
from geofilter.rows.sniff import Head
from geofilter.rows.table import Table

READ = ".jsonl, .json, .csv, .tsv, .parquet or .arrow"
_LINES = {".jsonl", ".json", ".ndjson"}
HEAD = 1 << 20
"""bytes by which a text's format is told"""
LONGEST = 1 << 24
"""as many where the first line is longer"""
SAVED, SAVED_SEVERAL = "state.json", "dataset_dict.json"
"""in a folder that `save_to_disk` of `datasets` has written: of a data set, and of several"""


@dataclass(frozen=True, slots=True)
class Jsonl:
    """A file of lines."""

    path: Path
    packed: str
    """see `packing.packed_as`"""
    endings: ClassVar = (".jsonl",)

    def rows(self, at: int = 0) -> Iterator[bytes]:
        """Every line, with its line ending; one that is too long as `Overlong`.

        Args:
            at: byte at which the first one begins; of a file that is not packed.

        Raises:
            InputError: see `unpacked`.
        """
        with unpacked(self.path) as handle:
            if at:
                handle.seek(at)
            yield from bounded_lines(handle, at)

    def blocks(self) -> Iterator[bytes]:
        """The same lines, many in one piece.

        Raises:
            InputError: see `unpacked`.
        """
        with unpacked(self.path) as handle:
            yield from bounded_blocks(handle)


Format = Jsonl | JsonArray | Table | Parquet | Arrow

CALLED = {
    ".parquet": "Parquet file",
    ".csv": "CSV file",
    ".tsv": "TSV file",
    ".arrow": "Arrow file",
    ".feather": "Arrow file",
}
"""what a name says that is not to hold lines"""


def format_of(path: Path, name: str | None = None) -> Format:
    """The format of a data file.

    Args:
        name: what errors call it where its path is not its own; then a table needs no name.

    Raises:
        InputError: no data file, one of an unreadable kind, or JSON that is neither a row a line nor an array.
    """
    called = name or str(path)
    start = _start(path)
    ending = named_as(path)[0] if path.suffix else ""
    if start.startswith(parquet.MAGIC):
        return Parquet(path)
    if start.startswith(arrow.MAGIC):
        return Arrow(path)
    packed = packed_as(start)
    head = _head(path, HEAD, called, packed)
    if head.is_cut:
        head = _head(path, LONGEST, called, packed)
    head.refuse_foreign()
    # Damaged, or of a version that has no magic bytes.
    if path.suffix.lower() == parquet.ENDING and not head.is_json:
        return Parquet(path)
    if path.suffix.lower() in arrow.ENDINGS and not head.is_json:
        return Arrow(path)
    head.refuse_lists()
    if head.is_array:
        return JsonArray(path, packed)
    if ending in table.ENDINGS and not head.is_object:
        head.refuse_cr(re.compile(rb"\r."))
        return Table(path, packed)
    head.refuse_cr()
    head.refuse_objects()
    if ending not in _LINES and not head.is_json and head.is_table:
        if name is None:
            raise InputError(f"{called}: looks like a table; rename it so that its name ends in .csv, or .tsv")
        return Table(path, packed)
    return Jsonl(path, packed)


def _head(path: Path, most: int, called: str, packed: str) -> Head:
    with unpacked(path, called) as handle:
        data = handle.read(most + 1)
    return Head(called, data[:most], len(data) <= most, packed)


def _start(path: Path) -> bytes:
    """The first bytes of a file that is there, can be read, and is not empty.

    Raises:
        InputError: it is not.
    """
    if path.is_dir():
        raise InputError(f"{path}: is a folder; {_in_folder(path)}")
    if path.is_fifo():
        raise InputError(f"{path}: is a pipe, and the data are read more than once; write them to a file first")
    if path.is_char_device() or path.is_block_device() or path.is_socket():
        raise InputError(f"{path}: is a device or a socket, which may never end; give the path of a data file")
    try:
        with path.open("rb") as handle:
            start = handle.read(16)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the path of a data file ({READ})") from None
    except PermissionError:
        raise InputError(f"{path}: permission denied; make the file readable") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be opened ({error.strerror}); give the path of a data file") from None
    if not start:
        raise InputError(f"{path}: the file is empty; nothing to read")
    return start


def _in_folder(folder: Path) -> str:
    """What to give instead of a folder."""
    if (folder / SAVED).is_file() or (folder / SAVED_SEVERAL).is_file():
        return "only scan reads what save_to_disk has written; give its .arrow files, or write it with to_parquet"
    if patterns := _patterns(folder):
        return f"give its files: {' '.join(map(shlex.quote, patterns))}"
    return f"give a data file ({READ})"


def _patterns(folder: Path) -> list[str]:
    """Patterns that take every data file of a folder and of those within it; hidden ones aside, as of patterns."""
    known, lie = {".jsonl", ".ndjson", ".json", *CALLED}, dict[str, set[str]]()
    for inside, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for path in (Path(inside, name) for name in names if not name.startswith(".")):
            if path.suffix and named_as(path)[0] in known and path.is_file():
                lie.setdefault(split_name(path)[1], set()).add(inside)
    return [
        str(Path(glob.escape(min(where)) if len(where) == 1 else f"{glob.escape(str(folder))}/**", f"*{ending}"))
        for ending, where in sorted(lie.items())
    ]
