"""The rows of a run against its inputs: every line is scored, quarantined or passed over, and is what it was."""

from __future__ import annotations

import base64
import hashlib

from geofilter.cut.outputs import Following
from geofilter.errors import InputError
from geofilter.rows.bounded import Extent, Overlong
from geofilter.rows.reading import Reading
from geofilter.rows.records import parse_line, row_sha256
from geofilter.run.manifest import InputFile, Manifest, Quarantined
from geofilter.run.rows import RowPlaces, lines_of
from geofilter.run.store import Run
from geofilter.verify.findings import Findings


def check_inputs(run: Run, manifest: Manifest, found: Findings) -> None:
    """Read every input again.

    Raises:
        RunError: the run's own files cannot be believed.
    """
    places, aside = RowPlaces.of(run), Following(run.quarantine())
    for index, info in enumerate(manifest["data"]):
        here = places.file == index
        hashes = dict(zip(places.line[here].tolist(), (s.tobytes().hex() for s in places.sha256[here]), strict=True))
        try:
            check_input(info, hashes, aside, run.reading, found)
        except InputError as error:
            found.doubt(info["path"], "", f"cannot be checked: {error}")
    counts = manifest["counts"]
    sums = (counts["scored"], counts["quarantined"], counts["rows"])
    if sums != (len(places.line), aside.taken, sum(info["rows"] for info in manifest["data"])):
        found.doubt(run.path, "counts", "do not add up")


def check_input(info: InputFile, hashes: dict[int, str], aside: Following, reading: Reading, found: Findings) -> None:
    """Hold every line of an input against the run.

    Args:
        hashes: of the scored rows, by their lines.
        aside: the quarantined ones; those of the inputs before have been taken.
    """
    digest, seen, first = hashlib.sha256(), 0, ""
    for number, line in enumerate(lines_of(info["path"]), start=1):
        digest.update(line)
        if number > info["rows"]:
            continue
        record = aside.at(info["path"], number)
        if number in hashes and record is not None:
            found.doubt(info["path"], f"line {number}", "is both scored and quarantined")
        elif number in hashes:
            if row_sha256(line) != hashes[number]:
                first = first or f"line {number}"
        elif record is not None:
            if not _same(line, record):
                first = first or f"line {number}"
        elif not reading.only or parse_line(line, info["path"], number, reading) is not None:
            found.doubt(info["path"], f"line {number}", "is neither scored nor quarantined")
        seen = number
    if digest.hexdigest() != info["sha256"]:
        found.doubt(info["path"], first, "has changed since the scan")
    elif first:
        found.doubt(info["path"], first, "is not the row that the run has")
    if (last := max(hashes, default=0)) > seen:
        found.doubt(info["path"], f"line {last}", "is in the run but not in the input")
    if not aside.done_with(info["path"]):
        found.doubt(info["path"], "", "the run has quarantined rows that are not in the input")


def _same(line: bytes, record: Quarantined) -> bool:
    """Whether a quarantined row has the bytes of a line of the input."""
    raw = line.rstrip(b"\r\n")
    if "sha256" in record:
        extent = line.extent if isinstance(line, Overlong) else Extent(len(raw), hashlib.sha256(raw).hexdigest())
        return (extent.size, extent.sha256) == (record["bytes"], record["sha256"])
    if "raw" in record:
        return record["raw"].encode() == raw
    return base64.b64decode(record["raw_base64"]) == raw
