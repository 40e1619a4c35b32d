"""The labelled rows of a cut beside the others, and what can be said of a bank that was learnt from them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from geofilter.arrays import Bools, among, digests
from geofilter.cut.cut import Selection
from geofilter.report.document import LabelsReport, RowsPart
from geofilter.report.facts import Drawn
from geofilter.run.labelled import given_labels, held_out, labels_of, learnt_by, learnt_from, random_among
from geofilter.run.names import LABELS, SCORES
from geofilter.run.store import Run

PARTS = ("labelled harmful", "labelled harmless", "a bank's own rows", "not labelled")
"""in which the scored rows are told apart; the third are rows without a label that a bank was built from"""


@dataclass(frozen=True, slots=True, eq=False)
class LabelledParts:
    """The n scored rows of a run, told apart by what is known of them."""

    of: npt.NDArray[np.uint8]
    """(n,) number in `PARTS`"""
    learnt: Bools
    """(n,) a bank of the run was learnt from the row"""
    banks: tuple[str, ...]
    """that were learnt from any"""

    @classmethod
    def of_run(cls, run: Run) -> LabelledParts | None:
        """Tell the rows apart; None where none has a label and no bank was learnt from any.

        Raises:
            RunError: labels.jsonl holds a line that is no label; a shard is damaged.
        """
        labels, banks = labels_of(run), learnt_by(run)
        if not labels and not banks:
            return None
        learnt, hashes = learnt_from(run), run.columns(["sha256"])["sha256"]
        of = np.where(learnt, np.uint8(2), np.uint8(3))
        for number, side in ((1, False), (0, True)):
            known = digests(sha for sha, is_bad in labels.items() if is_bad is side)
            of[hashes.where(partial(among, wanted=known))] = number
        return cls(of, learnt, tuple(banks)) if (of < 3).any() else None

    @property
    def marked(self) -> int:
        """Rows that are labelled harmful or harmless."""
        return int((self.of < 2).sum())

    def report(self, selection: Selection) -> LabelsReport:
        """What the report says of them."""
        counts = ((name, self.of == i) for i, name in enumerate(PARTS))
        parts: list[RowsPart] = [
            {"name": name, "rows": int(here.sum()), "removed": int((here & selection.removed).sum())}
            for name, here in counts
            if here.any()
        ]
        n = int(self.learnt.sum())
        text = "No bank of the run was learnt from labelled rows."
        if n:
            names, said = self.banks, held_out(selection.run, self.banks)
            known = f" Held out, cross-validated on the rows it was learnt from: {said}." if said else ""
            text = (
                f"{'The bank' if len(names) == 1 else 'The banks'} {' and '.join(names)} "
                f"{'was' if len(names) == 1 else 'were'} learnt from {n:,} of these rows: that they are ranked well "
                f"shows nothing.{known} All other figures here count these rows too; only the verdict on the banks "
                "leaves them out."
            )
        return {"parts": parts, "learnt_from": n, "text": text}


def drawn_at_random(selection: Selection) -> Drawn:
    """The marks of a cut's rows that say how often it is right: of rows drawn at random that taught no bank.

    Of rows that are alike to the byte the first counts.

    Raises:
        RunError: labels.jsonl holds a line that is no label; the scores are damaged.
    """
    run = selection.run
    labels = {sha: label for sha, label in given_labels(run.path / LABELS).items() if label.bad is not None}
    if not labels:
        return Drawn()
    hashes, free = selection.columns["sha256"], ~learnt_from(run)
    marked = hashes.where(partial(among, wanted=digests(labels))) & free
    every = bool(free.any() and marked[free].all())  # then none had to be drawn
    whys = random_among(run.manifest["files"][SCORES]["sha256"], str(selection.cut))
    # Backwards, so that of several alike the first stays.
    rows = np.flatnonzero(marked)
    shas = [sha.tobytes().hex() for sha in hashes.take(rows)]
    places = dict(zip(reversed(shas), reversed(rows.tolist()), strict=True))
    count = [[0, 0], [0, 0]]
    for sha, i in places.items():
        if every or labels[sha].why in whys:
            count[int(selection.removed[i])][int(bool(labels[sha].bad))] += 1
    (kept_good, kept_bad), (removed_good, removed_bad) = count
    return Drawn(removed_good + removed_bad, removed_bad, kept_good + kept_bad, kept_bad, every)
