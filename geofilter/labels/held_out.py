"""What labelling a few rows did for the others, where their labels are known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geofilter.arrays import among
from geofilter.labels.labelled_rows import check_sides
from geofilter.labels.labelling import Labelling
from geofilter.labels.source import parse
from geofilter.run.rows import scored_rows
from geofilter.stats import auroc


@dataclass(frozen=True, slots=True)
class OtherRows:
    """AUROC on labelled rows that were not shown, of the scan's scores and of the bank learnt last."""

    bad: int
    good: int
    left_out: int
    """further ones, that a bank of the scan was learnt from"""
    before: float
    after: float | None
    """None where nothing has been learnt"""

    def text(self, given: str) -> str:
        """One sentence; `given`: where their labels are."""
        after = "no bank was learnt" if self.after is None else f"{self.after:.2f} by the bank learnt"
        without = f"; {self.left_out} more are rows that a bank of the scan was learnt from" if self.left_out else ""
        return (
            f"on the other {self.bad + self.good} rows that {given} labels ({self.bad} bad): AUROC {self.before:.2f} "
            f"by the scan's scores, {after}{without}"
        )


def check_labels(labelling: Labelling, given: str, key: str | None = None) -> OtherRows:
    """AUROC of the scan's scores, and of the bank learnt last, on labelled rows that it was not shown.

    Args:
        given: where their labels are, see `source.parse`.
        key: field that joins them with the rows, likewise.

    Raises:
        InputError: fewer than five such rows of a kind.
        RunError: an input has changed since the scan.
    """
    labeller = parse(given, "--check", key)
    contents = labelling.contents
    shown = among(contents, contents[labelling.labelled()])
    position, bad, left_out = [], [], 0
    for i, row in enumerate(scored_rows(labelling.run)):
        label = labeller.of(row)
        if label is None or shown[i]:
            continue
        if labelling.known[i]:
            left_out += 1
            continue
        position.append(i)
        bad.append(label)
    n_bad = sum(bad)
    check_sides(f"--check {given}: of the rows not labelled here", n_bad, len(bad) - n_bad, labeller.seen())
    truth, learnt = np.array(bad), labelling.learnt
    return OtherRows(
        bad=n_bad,
        good=len(bad) - n_bad,
        left_out=left_out,
        before=round(auroc(labelling.scanned[position], truth), 4),
        after=None if learnt is None else round(auroc(learnt.standard[position], truth), 4),
    )
