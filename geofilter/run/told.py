"""What people are told of how a run's rows were read, one sentence each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from geofilter.rows.shapes import REMARKS
from geofilter.run.manifest import Counts, Encoding
from geofilter.text import counted


def reading_said(counts: Counts, remarks: Mapping[str, int], encoding: Encoding) -> Iterator[str]:
    """Say which rows were passed over, read in windows, or hold what is not scored."""
    if n := counts["passed_over"]:
        wanted = ", ".join(f"{column}={value}" for column, value in encoding.get("only", ()))
        yield f"{counted(n, 'row')} passed over (--only {wanted}): not scored, kept as they are"
    if n := counts["windowed"]:
        yield f"{counted(n, 'row')} longer than {encoding['max_tokens']:,} tokens, read in several windows"
    for name, n in remarks.items():
        yield f"{counted(n, 'row')} {REMARKS[name]}"
    if encoding.get("pairs") == "difference":
        yield (
            "how rows stand beside ordinary chat, and what is said of the banks, goes by chosen answers alone"
            if remarks.get("paired")
            else "no row has a rejected answer that can be scored: rows are ranked by their scores"
        )
