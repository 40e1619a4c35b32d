"""How two runs differ: shares of their rows, and how strongly each feature fires.

shares        Newcombe's interval of a difference (`stats.difference_interval`) at 1 - 0.05 / m for m that are compared,
              so that all m intervals hold together in 95 of 100 comparisons (Bonferroni)
strength      d = (m2 - m1) / s    m: mean log activation over rows, see `Background.log`; s: its standard deviation
              over rows, pooled; standard error sqrt((n1 + n2) / (n1 n2) + d^2 / (2 (n1 + n2)))
              (Hedges and Olkin, Statistical Methods for Meta-Analysis, 1985, chapter 5)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from geofilter.arrays import F64, Bools, Positions, among
from geofilter.bank.background import Background
from geofilter.compare.document import Change
from geofilter.run.store import Run
from geofilter.stats import LEVEL, difference_interval

FIRED = 30
"""rows of the smaller run in which a feature has to be expected to fire: of a rarer one the mean is far from normal"""


@dataclass(frozen=True, slots=True, eq=False)
class Sums:
    """What is known of the features of a run."""

    rows: int
    fired: F64
    """(d_sae,) rows in which each fires"""
    total: F64
    """(d_sae,) sum of its log activations"""
    squares: F64
    """(d_sae,)"""

    @classmethod
    def of(cls, run: Run, background: Background) -> Sums:
        """Read the features of a run once."""
        d = len(background.mean)
        rows, fired, total, squares = 0, np.zeros(d), np.zeros(d), np.zeros(d)
        for shard in run.shards(tokens=False):
            x = background.log_matrix(shard.pooled)
            rows += x.shape[0]
            fired += np.bincount(x.indices, minlength=d)
            total += np.asarray(x.sum(0)).ravel()
            squares += np.asarray(x.multiply(x).sum(0)).ravel()
        return cls(rows, fired, total, squares)


def judged(before: Sums, after: Sums) -> Bools:
    """(d_sae,) features whose interval can be believed: they fire often enough in both runs taken together."""
    least, rows = min(before.rows, after.rows), before.rows + after.rows
    result: Bools = (before.fired + after.fired) * least / rows >= FIRED
    return result


def strengths(before: Sums, after: Sums) -> tuple[F64, F64]:
    """d (d_sae,) of each feature and half the width of its interval, for all features together."""
    n1, n2 = before.rows, after.rows
    m1, m2 = before.total / n1, after.total / n2
    within = before.squares - n1 * m1**2 + after.squares - n2 * m2**2
    s = np.sqrt(np.maximum(within, 0) / max(1, n1 + n2 - 2))
    d = np.divide(m2 - m1, s, out=np.zeros_like(s), where=s > 1e-9)
    compared = max(1, int(((before.fired > 0) | (after.fired > 0)).sum()))
    z = NormalDist().inv_cdf(1 - (1 - LEVEL) / 2 / compared)
    return d, z * np.sqrt((n1 + n2) / (n1 * n2) + d**2 / (2 * (n1 + n2)))


def change(name: str, k: int, n: int, other_k: int, other_n: int, compared: int = 1) -> Change:
    """A part of the rows: k of n in the first run, other_k of other_n in the second.

    Args:
        compared: how many such parts are compared, whose intervals are to hold together.
    """
    low, high = difference_interval(other_k, other_n, k, n, 1 - (1 - LEVEL) / compared)
    return {
        "name": name,
        "before": round(k / n, 6),
        "after": round(other_k / other_n, 6),
        "difference": round(other_k / other_n - k / n, 6),
        "interval": [round(low, 6), round(high, 6)],
        "clear": low > 0 or high < 0,
        "examples": [],
    }  # fmt: skip


def changes(names: Sequence[str], before: Positions, after: Positions) -> list[Change]:
    """Parts that all rows of either run fall into, the largest difference first.

    Args:
        before: rows of each in the first run; `after` likewise.
    """
    n, m = int(before.sum()), int(after.sum())
    there = [i for i in range(len(names)) if before[i] or after[i]]
    found = [change(names[i], int(before[i]), n, int(after[i]), m, len(there)) for i in there]
    return sorted(found, key=lambda one: -abs(one["difference"]))


def shared(before: Run, after: Run) -> tuple[Bools, Bools]:
    """Which scored rows of each run have the bytes of a row of the other."""
    ours, theirs = (run.arrays(["sha256"])["sha256"] for run in (before, after))
    return among(ours, theirs), among(theirs, ours)
