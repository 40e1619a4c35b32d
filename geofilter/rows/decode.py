"""Decodes a file in this process and writes its rows to standard output, see `isolated`; called with kind, path and
the row group to begin with.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from geofilter.rows.arrow import Arrow
from geofilter.rows.isolated import send
from geofilter.rows.parquet import Parquet

KINDS: dict[str, Callable[[Path, int], Iterator[bytes]]] = {
    "Arrow": lambda path, _: Arrow(path).decoded(),
    "Parquet": lambda path, group: Parquet(path).decoded(group),
    "Parquet groups": lambda path, _: Parquet(path).counted(),
}
"""what is read of a file"""


def main() -> None:
    """Decode, and end at once: what a library does as a process ends is of no use here."""
    kind, path, group = sys.argv[1:]
    os._exit(send(KINDS[kind](Path(path), int(group)), sys.stdout.buffer))


if __name__ == "__main__":
    main()
