"""Scores that are sums over features, how reference rows make them comparable, and how they are taken apart.

    s = sum over f of w_f * x_f        x_f: standard score or logarithm of the activation, see `background.Background`

`ridge` and `contrast` are such sums, see `scorer`; so an explanation of theirs is exact.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from geofilter.arrays import F32, F64, I32, Bools, Positions, array_sum
from geofilter.bank.background import Background
from geofilter.bank.features import Pooled
from geofilter.bank.strongest import strongest
from geofilter.stats import spread

if TYPE_CHECKING:
    import scipy.sparse as sp

FEWEST, MOST = 3, 8
"""features named for a row, where it has as many with a positive share"""


@dataclass(frozen=True, slots=True, eq=False)
class Linear:
    """A score that is a sum over features: s = sum over f of w_f * x_f."""

    background: Background
    weights: F64
    """(d_sae,), or (d_sae, m) for m scores at once"""
    of: Literal["z", "log"]
    """x_f: the standard score of the activation, or its logarithm, see `Background`"""

    def values(self, pooled: Pooled) -> F64:
        """x (nnz,) of every stored activation."""
        take = self.background.z if self.of == "z" else self.background.log
        return take(pooled.values, pooled.indices)

    def absent(self) -> F64:
        """x (d_sae,) of an activation of 0."""
        return self.background.z_absent() if self.of == "z" else np.zeros(len(self.weights))

    def excess(self, pooled: Pooled) -> sp.csr_matrix:
        """(n, d_sae) x of every stored activation, less that of an activation of 0."""
        import scipy.sparse as sp

        absent = self.absent()
        x = self.values(pooled) - absent[pooled.indices]
        return sp.csr_matrix((x, pooled.indices, pooled.indptr), shape=(len(pooled), len(absent)))

    def sums(self, excess: sp.csr_matrix) -> F64:
        """(n,) or (n, m). The sum runs over active features only: an absent one contributes a constant."""
        result: F64 = excess @ self.weights + self.absent() @ self.weights
        return result

    def scores(self, pooled: Pooled) -> F64:
        """`sums` of the rows."""
        return self.sums(self.excess(pooled))


def contrast(background: Background, weights: F32) -> Linear:
    """The contrast score under closeness c (d_sae,), or under m tables (d_sae, m) at once."""
    return Linear(background, weights.astype(np.float64) / len(weights), "z")


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """The bank's reference rows under one scorer: turns raw scores into comparable ones."""

    sorted: F64
    """reference scores, ascending"""

    @property
    def sd(self) -> float:
        """Standard deviation of the reference scores (1 when they are all equal)."""
        return float(spread(self.sorted)) or 1.0

    def standard(self, raw: F64) -> F64:
        """Standard score against the reference rows, so that several banks can be compared."""
        result: F64 = (raw - self.sorted.mean()) / self.sd
        return result

    def percentile(self, raw: F64) -> F64:
        """Share in [0, 1] of the reference rows that score lower."""
        result: F64 = np.searchsorted(self.sorted, raw, side="left") / len(self.sorted)
        return result

    def percentile_of(self, standard: F64) -> F64:
        """The same of standard scores."""
        return self.percentile(standard * self.sd + self.sorted.mean())


@dataclass(frozen=True, slots=True, eq=False)
class NullScales:
    """Several sums over features at once, made comparable by the bank's reference rows."""

    linear: Linear
    """weights (d_sae, m)"""
    mean: F64
    """(m,) over the reference rows"""
    sd: F64

    @classmethod
    def of(cls, linear: Linear, reference: Pooled) -> NullScales:
        """Of the scores of the reference rows; those that do not vary are not divided."""
        scores = linear.scores(reference)
        sd = spread(scores)
        return cls(linear, scores.mean(0), np.where(sd > 0, sd, 1.0))

    def standard(self, excess: sp.csr_matrix) -> F64:
        """(n, m) standard scores of rows given as `Linear.excess`."""
        result: F64 = (self.linear.sums(excess) - self.mean) / self.sd
        return result


@dataclass(frozen=True, slots=True)
class FeatureShare:
    """One feature's exact part of a row's score."""

    feature: int
    share: float
    """in units of the score; over all features the shares sum to it"""


@dataclass(frozen=True, slots=True, eq=False)
class Carried:
    """What carries the scores of n rows, as far as it is named."""

    at: Positions
    """(n, MOST) places, among the rows' activations, of the largest positive shares, largest first, none of them of a
    common feature; -1 for none"""
    share: F64
    """(n, MOST) in units of the score; 0 for none"""
    common: F64
    """(n,) summed share of the common features"""
    explained: F64
    """(n,) part, in [0, 1], of the score that both carry together: how far the row would fall towards the mean of
    ordinary chat, whose score is 0, if all of these were as there. What speaks against the row is not taken off it: it
    is in the remainder, with all that is not named"""


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """Splits a score that is a sum into features: share_f = (x_f - mean reference x_f) * w_f / sd.

    The reference mean is taken off because the score is standardised against the reference rows, so the
    shares of all features, absent ones included, sum to the score exactly.
    """

    linear: Linear
    centre: F64
    """(d_sae,) mean x over the reference rows"""
    sd: float
    """standard deviation of the reference scores"""

    @classmethod
    def of(cls, score: Linear, reference: Pooled, sd: float) -> Shares:
        """Of a score.

        Args:
            reference: the rows that it is standardised against.
            sd: standard deviation of their scores.
        """
        absent = score.absent()
        excess = score.values(reference) - absent[reference.indices]
        centre = absent + np.bincount(reference.indices, excess, len(absent)) / len(reference)
        return cls(score, centre, sd)

    @property
    def key(self) -> str:
        """Hash of all that shares are computed with: those of equal keys are the same."""
        background = self.linear.background
        parts = [array_sum(of) for of in (self.linear.weights, self.centre)]
        parts += [array_sum(of) for of in (background.mean, background.sd)]
        return hashlib.sha256(f"{self.linear.of} {self.sd!r} {' '.join(parts)}".encode()).hexdigest()

    def active(self, excess: sp.csr_matrix) -> tuple[F64, F64]:
        """x and share (nnz,) of every stored activation of the rows, given as `Linear.excess`."""
        x = excess.data if self.linear.of == "log" else excess.data + self.linear.absent()[excess.indices]
        return x, (x - self.centre[excess.indices]) * self.linear.weights[excess.indices] / self.sd

    def absent(self, indices: I32) -> float:
        """What the features not in `indices` add to a row's score by being silent."""
        silent = np.ones(len(self.centre), bool)
        silent[indices] = False
        return float(((self.linear.absent() - self.centre) * self.linear.weights)[silent].sum() / self.sd)

    def carried(self, excess: sp.csr_matrix, scores: F64, common: Bools) -> Carried:
        """What carries the scores (n,) of the rows of `Linear.excess`.

        Of each row as many active features are named as carry half of its score together with the common ones, at
        least `FEWEST` and at most `MOST`.

        Args:
            common: (d_sae,) features that are not named.
        """
        _, share = self.active(excess)
        is_common = common[excess.indices]
        of_common = np.where(is_common, share, 0)
        # One by one, since the sum of a part of an array is rounded in another way than that of many parts at once.
        rest = np.array([np.add.reduce(of_common[start:end]) for start, end in pairwise(excess.indptr.tolist())])
        at = strongest(np.where(is_common, 0, share), excess.indices, excess.indptr, MOST)
        large = np.where(at < 0, 0, share[at]) if len(share) else np.zeros(at.shape)
        short = (rest[:, None] + np.cumsum(large, axis=1) < scores[:, None] / 2) & (at >= 0)
        named = np.minimum((at >= 0).sum(1), np.maximum(FEWEST, short.sum(1) + 1))
        total = rest + _sums_of_first(large, named)
        part = np.divide(total, scores, out=np.zeros(len(scores)), where=scores > 0)
        other = np.arange(MOST) >= named[:, None]
        return Carried(np.where(other, -1, at), np.where(other, 0, large), rest, np.clip(part, 0, 1))


def _sums_of_first(values: F64, n: Positions) -> F64:
    """(rows,) sum of the first n (rows,) of each row's values."""
    out = np.zeros(len(values))
    for count in np.unique(n).tolist():
        rows = np.flatnonzero(n == count)
        out[rows] = np.ascontiguousarray(values[rows, :count]).sum(1)
    return out
