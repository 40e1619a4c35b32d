"""Bootstrap intervals, and ranking statistics of many draws at once; the draws are `metrics.cluster_bootstrap`'s."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geofilter.metrics import cluster_bootstrap

F64 = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int64]

ROUNDS = 1000
LEVEL = 0.95
_CHUNK = 1 << 20
"""weights held at once, 8 MB"""


def draw_weights(groups: Sequence[str], rounds: int = ROUNDS, seed: int = 0) -> Iterator[F64]:
    """The same draws as how often each row was drawn: (some rounds, n) at a time, so that memory is bounded."""
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


def _over(a: F64, b: F64) -> F64:
    out: F64 = np.divide(a, b, out=np.full(np.broadcast_shapes(a.shape, b.shape), np.nan), where=b > 0)
    return out


class Ranking:
    """Rows ordered by a score, highest first, the earlier row first among equals (as a cut orders them)."""

    def __init__(self, score: F64, bad: Bools) -> None:
        self._order = np.argsort(-score, kind="stable")
        ordered = score[self._order]
        self._first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
        self._bad = bad[self._order].astype(np.float64)

    def stats(self, weights: F64, drops: Sequence[float]) -> Stats:
        """Statistics of the rows counted with each of the weights.

        AUROC is the chance that a bad row scores above a good one, ties counting half. AUPRC is the average
        precision, the sum over thresholds t of (recall_t - recall_{t-1}) * precision_t.

        Args:
            weights: (r, n) how often each row counts; ones for the rows as they are.
            drops: fractions of the rows that are dropped, highest scores first; rounded to whole rows.
        """
        w = weights[:, self._order]
        b = w * self._bad
        n, n_bad = w.sum(1), b.sum(1)
        # Equal scores cannot be told apart: they enter both curves as one step.
        step, step_bad = np.add.reduceat(w, self._first, axis=1), np.add.reduceat(b, self._first, axis=1)
        step_good = step - step_bad
        n_good = n - n_bad
        below = n_good[:, None] - np.cumsum(step_good, axis=1)
        auroc = _over((step_bad * (below + step_good / 2)).sum(1), n_bad * n_good)
        hits, taken = np.cumsum(step_bad, axis=1), np.cumsum(step, axis=1)
        auprc = _over((step_bad * hits / np.maximum(taken, 1)).sum(1), n_bad)
        auprc[n_good == 0] = np.nan
        before = np.cumsum(w, axis=1) - w
        removed: F64 = np.round(n[:, None] * np.asarray(drops, np.float64))
        gone = [(np.clip(removed[:, j, None] - before, 0, w) * self._bad).sum(1) for j in range(len(drops))]
        return Stats(auroc, auprc, removed, np.stack(gone, axis=1), n, n_bad)

    def recall_curve(self, fractions: Sequence[float]) -> F64:
        """Share of the bad rows among the highest `fractions` of the rows."""
        found = np.concatenate([[0.0], np.cumsum(self._bad)])
        result: F64 = found[np.round(np.asarray(fractions) * len(self._bad)).astype(int)] / found[-1]
        return result
