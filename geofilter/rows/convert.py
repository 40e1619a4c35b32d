"""Commands that make of a file one that can be read: beside it, under a name that nothing has yet."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from geofilter.rows.packing import ending_of, split_name

_UNPACK = {".gz": "gzip", ".zst": "zstd", ".bz2": "bzip2", ".xz": "xz"}


def convert(name: str, packed: str, program: str, made: str, ending: str | None = None) -> str:
    """What to do so that a program converts a file.

    Args:
        name: the file's path, or `-` for standard input.
        packed: what it is packed with, see `packing.packed_as`.
        program: as a shell takes it, from its standard input to its standard output.
        made: stands in the new file's name before its ending: `d.utf8.jsonl`.
        ending: of the new file's name; by default the file's own, without that of its packing.
    """
    if name == "-":
        return f"pipe it through {program}"
    # By `<`, because of names that begin with a dash.
    old, new = f"< {_typed(name)}", _typed(str(_unused(Path(name), made, ending)))
    return f"convert it: {f'{_UNPACK[packed]} -dc {old} | {program}' if packed else f'{program} {old}'} > {new}"


def _unused(path: Path, made: str, ending: str | None) -> Path:
    stem, suffix = split_name(path)
    ending = ending or suffix.removesuffix(path.suffix if ending_of(path) else "")
    names = (f"{stem}.{made}{f'-{n}' if n > 1 else ''}{ending}" for n in range(1, 1000))
    return next(new for name in names if not os.path.lexists(new := path.with_name(name)))


def _typed(name: str) -> str:
    return shlex.quote(f"./{name}" if name.startswith("-") else name)
