"""The last cut of a run, as its report recorded it."""

from __future__ import annotations

import json
from typing import TypedDict

from geofilter.files import file_sha256
from geofilter.report.document import ReportDocument
from geofilter.run.store import SCORES, Run


class LastCut(TypedDict):
    """What the last `geofilter filter` of a run did."""

    cut: str
    removed: int
    kept: int
    scored_anew: bool
    """the run's scores are others now"""


def last_cut(run: Run) -> LastCut | None:
    """The last cut of a finished run; None where it has not been cut, or its report cannot be read."""
    try:
        written: ReportDocument = json.loads((run.path / "report.json").read_text("utf-8"))
        counts = written["counts"]
        return {
            "cut": written["cut"],
            "removed": counts["removed"],
            "kept": counts["kept"],
            "scored_anew": scored_anew(run, written),
        }
    except (OSError, ValueError, KeyError, TypeError):
        return None


def scored_anew(run: Run, written: ReportDocument) -> bool:
    """Whether a run's scores are no longer those of its report."""
    return bool(file_sha256(run.path / SCORES) != written["made_with"]["scores"])
