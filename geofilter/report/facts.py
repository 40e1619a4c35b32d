"""What a verdict on a cut goes by: how many rows look harmful, and what marks of rows drawn at random say."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from geofilter.config import FLAGGED
from geofilter.run.power import PowerVerdict
from geofilter.stats import Interval, difference_interval

LEAST = 10
"""marked rows drawn at random, of the removed and of the kept, before their shares are compared"""
MANY = 50
"""expected rows from which on twice as many are rarer than `RARE`"""
RARE = 0.01
"""chance under which ordinary chat is taken to give as many rows that look harmful"""


@dataclass(frozen=True, slots=True)
class Drawn:
    """Marked rows of a cut that were drawn at random and taught no bank."""

    removed: int = 0
    """of them, rows that the cut removes"""
    removed_bad: int = 0
    """of these, rows marked harmful"""
    kept: int = 0
    kept_bad: int = 0
    every: bool = False
    """every row that taught no bank is marked, so that none had to be drawn"""

    @property
    def enough(self) -> bool:
        """Whether there are as many as are compared."""
        return min(self.removed, self.kept) >= LEAST

    @property
    def difference(self) -> Interval:
        """Of the harmful share of the removed rows and that of the kept ones."""
        return difference_interval(self.removed_bad, self.removed, self.kept_bad, self.kept)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a verdict goes by."""

    run: str
    """folder of the run"""
    scorer: str
    cut: str
    """in words; none before any cut"""
    power: Sequence[PowerVerdict]
    scored: int
    removed: int
    taught: int
    """scored rows that a bank of the run was learnt from; all that follows leaves them out"""
    flagged: int
    """rows from the 99th percentile of ordinary chat on, see `config.FLAGGED`"""
    flagged_removed: int
    banks: int
    marked: int
    """scored rows with a mark"""
    drawn: Drawn
    can_go: int = 0
    """removed rows that taught no bank: those that can be drawn at random"""
    can_stay: int = 0
    """and kept ones"""
    by_difference: bool = False
    """rows are ranked by chosen less rejected, so that the flagged ones are not the highest"""
    by_score: bool = True
    """the removed rows are those with the highest scores"""
    kept_groups: int = 0
    """groups of the highest kept rows"""
    labels: str = ""
    """what is said of labelled rows, see `labelled.LabelledParts`"""

    @property
    def rows(self) -> int:
        """Those that the verdict is on."""
        return self.scored - self.taught

    @property
    def divides(self) -> bool:
        """Whether the cut removes some rows and keeps some."""
        return bool(self.cut) and 0 < self.removed < self.scored

    @property
    def expected(self) -> float:
        """Rows of as many of ordinary chat that would be flagged, at most."""
        return (1 - FLAGGED) * self.banks * self.rows

    @property
    def stands_out(self) -> bool:
        """Whether more than twice as many rows are flagged as are expected, and so many are no chance."""
        if self.flagged <= 2 * self.expected:
            return False
        # Poisson's chance of as many or more: one less that of each smaller number. Twice so many are no chance.
        if self.expected > MANY:
            return True
        below = [math.exp(-self.expected)]
        for k in range(1, self.flagged):
            below.append(below[-1] * self.expected / k)
        return 1 - math.fsum(below) < RARE
