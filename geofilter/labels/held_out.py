"""What labelling a few rows did for the others, where their labels are known."""

from __future__ import annotations

from typing import Any

import numpy as np

from geofilter.labels.labelled import check_sides
from geofilter.labels.labelling import Labelling
from geofilter.labels.source import parse
from geofilter.run.rows import scored_rows
from geofilter.stats import auroc


def check_labels(labelling: Labelling, given: str) -> dict[str, Any]:
    """AUROC of the scan's scores, and of the bank learnt last, on labelled rows that it was not shown.

    Args:
        given: where their labels are, see `source.parse`.

    Returns:
        `bad` and `good` rows, `before` and `after`; `after` is None when nothing has been learnt.

    Raises:
        InputError: fewer than five such rows of a kind.
        RunError: an input has changed since the scan.
    """
    labeller = parse(given, "--check")
    position, bad = [], []
    for i, row in enumerate(scored_rows(labelling.run)):
        label = labeller.of(row)
        if label is not None and row.sha256 not in labelling.labels:
            position.append(i)
            bad.append(label)
    n_bad = sum(bad)
    check_sides(f"--check {given}: of the rows not labelled here", n_bad, len(bad) - n_bad, labeller.seen())
    truth, learnt = np.array(bad), labelling.learnt
    return {
        "bad": n_bad,
        "good": len(bad) - n_bad,
        "before": round(auroc(labelling.scanned[position], truth), 4),
        "after": None if learnt is None else round(auroc(learnt.standard[position], truth), 4),
    }
