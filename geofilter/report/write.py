"""Writing a report where it belongs, and making it again from a run that has been cut."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from geofilter.cut.cut import Cut, Selection
from geofilter.cut.places import Outputs
from geofilter.errors import InputError
from geofilter.files import atomic, write_json
from geofilter.report.content import NEAREST, Report, build
from geofilter.report.document import Tokens
from geofilter.report.last import scored_anew
from geofilter.report.page import html
from geofilter.report.plain import markdown
from geofilter.report.rows import GatheredRows
from geofilter.run.manifest import RowScore
from geofilter.run.store import Run

CUT = "cut.json"
"""in a run folder: its last cut"""


@dataclass(frozen=True, slots=True, eq=False)
class Filtered:
    """What a cut came to."""

    outputs: list[Outputs]
    """the files of rows"""
    report: Report
    pages: list[Path]
    """HTML reports: beside each input's kept rows, and in the run"""


def filter_run(run: Run, cut: Cut, out: Path | None = None, removed: Path | None = None) -> Filtered:
    """Cut a run: write the kept, removed and quarantined rows of every input, and the reports.

    Args:
        out: file for the kept rows (one input), or a folder for all outputs; by default beside the inputs.
        removed: file for the removed rows (one input).

    Raises:
        InputError: a folder cannot be written, or options that do not fit the run.
        RunError: the run is in use, or an input has changed since the scan.
    """
    with run.lock():
        selection = Selection.of(run, cut)
        gathered = GatheredRows(selection)
        outputs = selection.write(out, removed, watcher=gathered)
        report = build(selection, outputs, gathered)
        return Filtered(outputs, report, write(report))


def write(report: Report, again: bool = False) -> list[Path]:
    """Write JSON, Markdown and HTML beside each input's kept rows, and into the run; return the HTML paths.

    Args:
        again: only where this run's report is now.
    """
    run = report.selection.run
    places = [place for place in report.outputs if not again or _own(place, run)]
    # A file name may hold bytes that are not text.
    rendered = {
        kind: text.encode("utf-8", "backslashreplace")
        for kind, text in (("md", markdown(report.data)), ("html", html(report)))
    }
    pages = []
    for place in [*places, None]:
        write_json(place.report("json") if place else run.path / "report.json", report.data)
        for kind, content in rendered.items():
            path = place.report(kind) if place else run.path / f"report.{kind}"
            with atomic(path) as handle:
                handle.write(content)
            if kind == "html":
                pages.append(path)
    cut = report.selection.cut
    write_json(run.path / CUT, {"kind": cut.kind, "value": cut.value})
    return pages


def remake(run: Run) -> Report:
    """The report of a run's last cut, from the run as it is now.

    Raises:
        InputError: the run has not been cut, or has been scored anew since.
        RunError: an input has changed since the scan.
    """
    again = f"run geofilter filter {shlex.quote(str(run.path))} --drop 10% first"
    try:
        cut = Cut(**json.loads((run.path / CUT).read_text("utf-8")))
        written = json.loads((run.path / "report.json").read_text("utf-8"))
    except FileNotFoundError:
        raise InputError(f"{run.path}: not cut yet; {again}") from None
    selection = Selection.of(run, cut)
    if scored_anew(run, written):
        raise InputError(f"{run.path}: scored anew since it was cut; {again}")
    outputs = []
    for i, f in enumerate(written["files"]):
        kept, removed, quarantined = (Path(f["outputs"][kind]) for kind in ("kept", "removed", "quarantined"))
        outputs.append(Outputs(i, kept, removed, quarantined, f["kept"], f["removed"], f["quarantined"]))
    return build(selection, outputs, GatheredRows.again(selection))


def write_shaded(
    run: Run, most: int, shade: Callable[[Run, Sequence[RowScore]], list[Tokens]]
) -> tuple[list[Path], int]:
    """Make the report of a run's last cut again, with the tokens of some rows shaded.

    Args:
        most: highest removed rows that are shaded; of kept ones the nearest, up to `NEAREST`.
        shade: see `scanning.explain.shade`.

    Returns:
        the HTML pages, and how many rows were shaded.

    Raises:
        InputError, RunError: see `remake`, and what `shade` raises.
    """
    with run.lock():
        report = remake(run)
        removed = [row for row in report.rows if row["removed"]][:most]
        rows = [*removed, *[row for row in report.rows if not row["removed"]][:NEAREST]]
        for row, tokens in zip(rows, shade(run, rows), strict=True):
            row["tokens"] = tokens
        return write(report, again=True), len(rows)


def _own(place: Outputs, run: Run) -> bool:
    """Whether the report at a place is this run's: another run's cut may have been written there since."""
    path = place.report("json")
    return path.is_file() and path.read_bytes() == (run.path / "report.json").read_bytes()
