"""The prompts of the rows that a run's last cut removed, to be answered again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from geofilter.cut.cut import Selection
from geofilter.errors import InputError
from geofilter.files import atomic, dumps
from geofilter.places import refuse_output
from geofilter.report.last import current
from geofilter.rows.answered import NOTE, answered
from geofilter.rows.records import Row
from geofilter.rows.row_error import RowError
from geofilter.run.rows import scored_rows
from geofilter.run.store import Run
from geofilter.text import counted


@dataclass(slots=True)
class Prompts:
    """What was written of the removed rows."""

    path: Path
    written: int = 0
    without: dict[str, list[str]] = field(default_factory=dict)
    """why a row has no prompt there -> where such rows stand"""

    def text(self) -> Iterator[str]:
        """In sentences."""
        yield f"{counted(self.written, 'prompt')} of removed rows: {self.path}"
        for why, rows in self.without.items():
            more = f" and {len(rows) - 1:,} more" if len(rows) > 1 else ""
            yield f"not among them: {rows[0]}{more} {why}"


def removed_rows(run: Run, selection: Selection) -> Iterator[Row]:
    """The rows that a cut removes, in input order.

    Raises:
        RunError: an input has changed since the scan.
    """
    for row, gone in zip(scored_rows(run), selection.removed.tolist(), strict=True):
        if gone:
            yield row


def refuse_place(run: Run, path: Path, outputs: Iterable[Path]) -> None:
    """Refuse a place for prompts, before anything is written.

    Args:
        outputs: files that the cut writes.

    Raises:
        InputError: it is an input, an output of the cut, or cannot be written.
    """
    refuse_output(path, "--prompts", [Path(info["path"]) for info in run.manifest["data"]])
    if path.resolve() in {output.resolve() for output in outputs}:
        raise InputError(f"--prompts {path}: is written by this cut too; give another name")
    if not path.parent.is_dir():
        raise InputError(f"--prompts {path}: no such folder; make it first")


def write_prompts(run: Run, path: Path) -> Prompts:
    """Write the removed rows with their answers empty: JSONL in the shape that each has, in input order, each once.

    Each has a field `geofilter` with the hash, file and line of its row, by which `replace` knows it again.

    Raises:
        InputError: the run has not been cut, has been scored anew since, or the file cannot be written.
        RunError: an input has changed since the scan.
    """
    found, reading = Prompts(path), run.reading
    seen: set[bytes] = set()
    with atomic(path) as handle:
        for row in removed_rows(run, Selection.of(run, current(run))):
            digest = bytes.fromhex(row.sha256)
            if digest in seen:  # rows of the same bytes have one answer
                continue
            seen.add(digest)
            try:
                record = answered(row, "", reading)
            except RowError as error:
                found.without.setdefault(str(error), []).append(f"{row.file}, line {row.line}")
                continue
            handle.write(dumps({**record, NOTE: {"sha256": row.sha256, "file": row.file, "line": row.line}}))
            found.written += 1
    return found
