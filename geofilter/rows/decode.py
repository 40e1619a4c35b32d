"""Decodes a file in this process and writes its rows to standard output, see `isolated`; called with kind and path."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from geofilter.rows.arrow import Arrow
from geofilter.rows.isolated import send
from geofilter.rows.parquet import Parquet

KINDS: dict[str, type[Arrow] | type[Parquet]] = {"Arrow": Arrow, "Parquet": Parquet}


def main() -> None:
    """Decode, and end at once: what a library does as a process ends is of no use here."""
    kind, path = sys.argv[1:]
    os._exit(send(KINDS[kind](Path(path)).decoded(), sys.stdout.buffer))


if __name__ == "__main__":
    main()
