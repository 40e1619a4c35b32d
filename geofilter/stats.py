"""Small statistics: AUROC, average precision, rank correlation, and bootstrap intervals that draw whole groups."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from geofilter.arrays import F64, Bools, Positions

Floats = npt.NDArray[np.floating]
Interval = tuple[float, float]
"""lower and upper end"""

ROUNDS = 1000
"""draws of a bootstrap"""
LEVEL = 0.95
"""of its intervals"""
ROUNDING = 1e-6
"""size of a spread beside the values themselves up to which it is rounding: features are read in single precision"""
_CHUNK = 1 << 20
"""weights held at once, 8 MB"""


def ranks(x: Floats) -> F64:
    """1-based ranks, ties given their mean: `[3, 1, 3] -> [2.5, 1, 2.5]`."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: F64 = (last - (counts - 1) / 2)[inverse]
    return mean


def spread(x: Floats) -> F64:
    """Standard deviation along the first axis; 0 where it is no more than rounding."""
    sd = x.std(0)
    found: F64 = np.where(sd > ROUNDING * np.abs(x).max(0), sd, 0.0)
    return found


def spearman(x: Floats, y: Floats) -> float:
    """Rank correlation; 0 when either side is constant."""
    a, b = ranks(x), ranks(y)
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def _over(a: F64, b: F64) -> F64:
    out: F64 = np.divide(a, b, out=np.full(np.broadcast_shapes(a.shape, b.shape), np.nan), where=b > 0)
    return out


@dataclass(frozen=True, slots=True, eq=False)
class Stats:
    """Ranking statistics of r draws, with d amounts dropped; nan where a draw has one kind of row only."""

    auroc: F64
    """(r,)"""
    auprc: F64
    """(r,) average precision"""
    removed: F64
    """(r, d) rows dropped"""
    bad_removed: F64
    """(r, d) bad ones among them"""
    n: F64
    """(r,) rows"""
    n_bad: F64
    """(r,)"""

    @property
    def precision(self) -> F64:
        """(r, d) share of the dropped rows that are bad."""
        return _over(self.bad_removed, self.removed)

    @property
    def recall(self) -> F64:
        """(r, d) share of the bad rows that are dropped."""
        return _over(self.bad_removed, self.n_bad[:, None])

    @property
    def by_chance(self) -> F64:
        """(r, d) bad rows that a random drop of as many rows removes, in expectation."""
        return self.removed * (self.n_bad / self.n)[:, None]

    @staticmethod
    def concat(parts: Sequence[Stats]) -> Stats:
        """All draws of all parts."""
        return Stats(*(np.concatenate([getattr(p, name) for p in parts]) for name in Stats.__slots__))


class RankingStats:
    """Rows ordered by a score, highest first, the earlier row first among equals (as a cut orders them)."""

    def __init__(self, score: Floats, bad: Bools) -> None:
        self._order = np.argsort(-score, kind="stable")
        ordered = score[self._order]
        self._first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        self._bad = bad[self._order].astype(np.float64)

    def auroc(self, weights: F64) -> F64:
        """(r,) chance that a bad row scores above a good one, ties counting half; nan without both kinds.

        Args:
            weights: (r, n) how often each row counts; ones for the rows as they are.
        """
        w, b = self._ordered(weights)
        return self._auroc(self._steps(b), self._steps(w - b))

    @staticmethod
    def _auroc(step_bad: F64, step_good: F64) -> F64:
        """(r,) of the bad and the good rows (r, distinct scores) of each step of the ranking."""
        n_bad, n_good = step_bad.sum(1), step_good.sum(1)
        below = n_good[:, None] - np.cumsum(step_good, axis=1)
        return _over((step_bad * (below + step_good / 2)).sum(1), n_bad * n_good)

    def _ordered(self, weights: F64) -> tuple[F64, F64]:
        """(r, n) the weights in the order of the ranking, and those of bad rows."""
        w = weights[:, self._order]
        return w, w * self._bad

    def _steps(self, w: F64) -> F64:
        """(r, distinct scores): equal scores cannot be told apart, so they enter every curve as one step."""
        steps: F64 = np.add.reduceat(w, self._first, axis=1)
        return steps

    def stats(self, weights: F64, drops: Sequence[float]) -> Stats:
        """Statistics of the rows counted with each of the weights.

        AUPRC is the average precision, the sum over thresholds t of (recall_t - recall_{t-1}) * precision_t.

        Args:
            weights: (r, n) how often each row counts; ones for the rows as they are.
            drops: fractions of the rows that are dropped, highest scores first; rounded to whole rows.
        """
        w, b = self._ordered(weights)
        n, n_bad = w.sum(1), b.sum(1)
        step, step_bad = self._steps(w), self._steps(b)
        hits, taken = np.cumsum(step_bad, axis=1), np.cumsum(step, axis=1)
        auprc = _over((step_bad * hits / np.maximum(taken, 1)).sum(1), n_bad)
        auprc[n == n_bad] = np.nan
        before = np.cumsum(w, axis=1) - w
        removed: F64 = np.round(n[:, None] * np.asarray(drops, np.float64))
        gone = [(np.clip(removed[:, j, None] - before, 0, w) * self._bad).sum(1) for j in range(len(drops))]
        return Stats(self._auroc(step_bad, step - step_bad), auprc, removed, np.stack(gone, axis=1), n, n_bad)

    def recall_curve(self, fractions: Sequence[float]) -> F64:
        """Share of the bad rows among the highest `fractions` of the rows."""
        found = np.concatenate([[0.0], np.cumsum(self._bad)])
        result: F64 = found[np.round(np.asarray(fractions) * len(self._bad)).astype(int)] / found[-1]
        return result


def auroc(score: Floats, bad: Bools) -> float:
    """Chance that a bad row scores above a good one (ties count half); nan without both kinds."""
    if not bad.any() or bad.all():
        return float("nan")
    return float(RankingStats(score, bad).auroc(np.ones((1, len(bad))))[0])


def cluster_bootstrap(groups: Sequence[str] | Positions, rounds: int = ROUNDS, seed: int = 0) -> Iterator[Positions]:
    """Row positions of each draw: as many groups as there are, with replacement, each with all of its rows.

    Rows that answer the same prompt are not independent; drawing them one by one makes intervals too narrow (Davison
    and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). A draw has as many rows as its groups
    hold, so about n, not exactly n.
    """
    _, keys = np.unique(np.asarray(groups), return_inverse=True)
    order = np.argsort(keys, kind="stable")
    size = np.bincount(keys)
    start = np.cumsum(size) - size
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        drawn = rng.integers(0, len(size), len(size))
        length = size[drawn]
        # Within each drawn group 0, 1, ..., counted on from where the group starts in `order`.
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        yield order[np.repeat(start[drawn], length) + within]


def draw_weights(groups: Sequence[str] | Positions, rounds: int = ROUNDS, seed: int = 0) -> Iterator[F64]:
    """The draws of `cluster_bootstrap` as how often each row was drawn.

    Yields:
        (some rounds, n) at a time, so that memory is bounded.
    """
    n = len(groups)
    chunk: list[F64] = []
    for drawn in cluster_bootstrap(groups, rounds, seed):
        chunk.append(np.bincount(drawn, minlength=n).astype(np.float64))
        if len(chunk) * n >= _CHUNK:
            yield np.stack(chunk)
            chunk = []
    if chunk:
        yield np.stack(chunk)


def interval(values: npt.ArrayLike, level: float = LEVEL) -> tuple[float, float]:
    """Percentile interval of bootstrap values; draws without a value (nan) are passed over, (nan, nan) if all are."""
    v = np.asarray(values, np.float64)
    v = v[np.isfinite(v)]
    if not len(v):
        return float("nan"), float("nan")
    low, high = np.percentile(v, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def auroc_interval(
    score: Floats, bad: Bools, groups: Sequence[str] | None = None, rounds: int = ROUNDS, seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of the AUROC; whole groups (same prompt) are drawn together when given."""
    ranking = RankingStats(score, bad)
    drawn = draw_weights(np.arange(len(score)) if groups is None else groups, rounds, seed)
    return interval(np.concatenate([ranking.auroc(weights) for weights in drawn]))


def auroc_score_interval(found: float, n_bad: int, n_good: int) -> Interval:
    """95 % interval of an AUROC by its variance at each true value; also of 1, which a bootstrap takes for certain.

    Newcombe, Statistics in Medicine 25 (2006), 559, method 5: |found - t| <= z sd(t), sd(t) by Hanley and McNeil
    (Radiology 143, 1982, 29), with half the rows for either count in the terms of pairs.
    """
    t = np.linspace(0, 1, 2001)
    n = (n_bad + n_good) / 2 - 1
    variance = t * (1 - t) * (1 + n * (1 - t) / (2 - t) + n * t / (1 + t)) / (n_bad * n_good)
    inside = t[np.abs(found - t) <= NormalDist().inv_cdf((1 + LEVEL) / 2) * np.sqrt(variance) + 1 / 4000]
    return float(inside[0]), float(inside[-1])


def share_interval(k: int, n: int, level: float = LEVEL) -> Interval:
    """Wilson's score interval of a share of which k of n were seen; (0, 1) of none.

    Wilson, Journal of the American Statistical Association 22 (1927), 209: the shares p from which k / n is no further
    away than z standard deviations, sqrt(p (1 - p) / n).
    """
    if not n:
        return 0.0, 1.0
    z = NormalDist().inv_cdf((1 + level) / 2)
    middle = (k + z * z / 2) / (n + z * z)
    reach = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def difference_interval(k: int, n: int, other_k: int, other_n: int, level: float = LEVEL) -> Interval:
    """Interval of the difference of two shares, k of n less other_k of other_n.

    Newcombe, Statistics in Medicine 17 (1998), 873, method 10: made of the Wilson intervals of both; (-1, 1) where one
    of them is of none.
    """
    if not n or not other_n:
        return -1.0, 1.0
    p, q = k / n, other_k / other_n
    (low, high), (other_low, other_high) = share_interval(k, n, level), share_interval(other_k, other_n, level)
    down, up = math.hypot(p - low, other_high - q), math.hypot(high - p, q - other_low)
    return p - q - down, p - q + up
