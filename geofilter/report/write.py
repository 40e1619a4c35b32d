"""Writing a report where it belongs, and making it again from a run that has been cut."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from geofilter.cut.cut import Cut, Selection
from geofilter.cut.outputs import Outputs
from geofilter.errors import InputError
from geofilter.files import atomic, file_sha256, write_json
from geofilter.report.content import NEAREST, Report, Tally, build
from geofilter.report.page import html
from geofilter.report.plain import markdown
from geofilter.run.store import SCORES, Run

CUT = "cut.json"
"""in a run folder: its last cut"""


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
    tally = Tally()
    for _, detail in run.score_lines(np.flatnonzero(selection.removed)):
        tally.add(detail)
    return build(selection, outputs, tally)


def write_shaded(run: Run, most: int, shade: Callable[[Run, list[dict[str, Any]]], None]) -> tuple[list[Path], int]:
    """Make the report of a run's last cut again, with the tokens of some rows shaded.

    Args:
        most: highest removed rows that are shaded; of kept ones the nearest, up to `NEAREST`.
        shade: adds `tokens` to the rows, see `scanning.explain.shade`.

    Returns:
        the HTML pages, and how many rows were shaded.

    Raises:
        InputError, RunError: see `remake`, and what `shade` raises.
    """
    with run.lock():
        report = remake(run)
        removed = [row for row in report.rows if row["removed"]][:most]
        rows = [*removed, *[row for row in report.rows if not row["removed"]][:NEAREST]]
        shade(run, rows)
        return write(report, again=True), len(rows)


def scored_anew(run: Run, written: Mapping[str, Any]) -> bool:
    """Whether a run's scores are no longer those of its report."""
    return bool(file_sha256(run.path / SCORES) != written["made_with"]["scores"])


def _own(place: Outputs, run: Run) -> bool:
    """Whether the report at a place is this run's: another run's cut may have been written there since."""
    path = place.report("json")
    return path.is_file() and path.read_bytes() == (run.path / "report.json").read_bytes()
