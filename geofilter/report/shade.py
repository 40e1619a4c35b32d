"""Response tokens by their part of the score, for the rows that a report shows: the model runs on these rows again."""

from __future__ import annotations

from geofilter.explain import Explainer
from geofilter.files import Notify
from geofilter.report.content import NEAREST, Report
from geofilter.reread import reread
from geofilter.text import shorten


def shade(report: Report, most: int, notify: Notify) -> int:
    """Add `tokens`, pieces of text with their share of the score, to the highest removed rows and the nearest kept.

    Args:
        most: removed rows to read; of kept ones, up to `NEAREST`.

    Returns:
        rows that were read.

    Raises:
        RunError: the scorer has no feature shares, or data, model or SAE has changed since the scan.
        TargetError: model or SAE is gone.
    """
    removed = [row for row in report.rows if row["removed"]][:most]
    chosen = [*removed, *[row for row in report.rows if not row["removed"]][:NEAREST]]
    rows = reread(chosen, report.selection.run.fields)
    explainer = Explainer(report.selection.run, notify)
    for row in chosen:
        pieces = explainer.explain(row, rows[row["file"], row["line"]]).tokens
        row["tokens"] = [[shorten(p.text), round(p.share, 4), p.gap] for p in pieces]
    return len(chosen)
