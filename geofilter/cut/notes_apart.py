"""The process that makes notes of a cut's rows for `noted`: it hashes scores.jsonl, is told the rows, sends batches."""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from geofilter.cut.noted import BATCH, UNLIKE, NotedRow, Wanted, noted, packed
from geofilter.cut.notes import Notes
from geofilter.files import ordinary
from geofilter.run.feature_sums import FeatureSums
from geofilter.run.lines_at import lines_at


def main() -> None:
    """Read the file that is named."""
    out = sys.stdout.buffer
    with ordinary(Path(sys.argv[1])).open("rb", buffering=0) as handle:
        stat = os.fstat(handle.fileno())
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
        said = {"stat": [stat.st_size, stat.st_mtime_ns], "sum": {"sha256": digest, "bytes": stat.st_size}}
        out.write(json.dumps(said).encode() + b"\n")
        out.flush()
        wanted, sums, damaged = Wanted.read(sys.stdin.buffer), FeatureSums(), False
        handle.seek(0)
        try:
            for rows in _batches(_rows(handle, wanted, Notes(sums))):
                out.write(packed(rows))
        except UNLIKE:
            damaged = True
    out.write(packed([]))
    out.write(json.dumps({"damaged": damaged, "sums": sums.to_json()}).encode() + b"\n")
    out.flush()


def _rows(handle: IO[bytes], wanted: Wanted, notes: Notes) -> Iterator[NotedRow]:
    # Where lines are missing there are fewer than were asked for, which is a ValueError.
    for (position, text), (rank, watched) in zip(lines_at(handle, wanted.position), wanted.each(), strict=True):
        yield NotedRow(position, noted(notes, text, rank), text if watched else b"")


def _batches(rows: Iterator[NotedRow]) -> Iterator[list[NotedRow]]:
    batch: list[NotedRow] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += len(row.note.text) + len(row.text)
        if size >= BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


if __name__ == "__main__":
    main()
