"""Ways to turn a row's stored features into one number under a bank. No model is needed.

`ridge`, the default, is a sum over features of learnt weight times log activation (see `ridge`). `contrast` has no
learnt weights:

    z_f = clip((a_f - mu_f) / (sd_f + 0.2 * median sd), -3, 6)
    c_f = max over toxic t of cos(d_f, d_t) - max over aligned p of cos(d_f, d_p)
    s   = mean over f of z_f * c_f

Both are sums over features, and so is `activation`: an explanation of theirs is exact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

import numpy as np

from geofilter.config import SCORERS
from geofilter.errors import BankError
from geofilter.geometry import F32, F64, I32, Background
from geofilter.pooled import Pooled

if TYPE_CHECKING:
    from geofilter.bank import Bank

NEAREST_K = 32


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

    def scores(self, pooled: Pooled) -> F64:
        """(n,) or (n, m). The sum runs over active features only: an absent one contributes a constant."""
        import scipy.sparse as sp

        absent = self.absent()
        excess = self.values(pooled) - absent[pooled.indices]
        matrix = sp.csr_matrix((excess, pooled.indices, pooled.indptr), shape=(len(pooled), len(absent)))
        result: F64 = matrix @ self.weights + absent @ self.weights
        return result


def contrast(background: Background, weights: F32) -> Linear:
    """The contrast score under closeness c (d_sae,), or under m tables (d_sae, m) at once."""
    return Linear(background, weights.astype(np.float64) / len(weights), "z")


def linear(scorer: str, bank: Bank) -> Linear | None:
    """The scorer as a sum over features; None for those that are none."""
    if scorer == "ridge":
        return Linear(bank.background, bank.weights.astype(np.float64), "log")
    if scorer == "contrast":
        return contrast(bank.background, bank.closeness.contrast)
    if scorer == "activation":
        weights = np.zeros(bank.d_sae)
        weights[bank.toxic] = 1 / len(bank.toxic)
        weights[bank.aligned] = -1 / len(bank.aligned)
        return Linear(bank.background, weights, "z")
    return None


def null(scorer: str, bank: Bank) -> Linear:
    """Twenty scores that know nothing: what the bank's score must beat.

    Of ridge: weights learnt from the same rows with their labels shuffled. Of all others: contrast scores of random
    banks of the same size.
    """
    if scorer == "ridge":
        return Linear(bank.background, bank.shuffled.astype(np.float64), "log")
    return contrast(bank.background, bank.random)


def raw_scores(scorer: str, bank: Bank, pooled: Pooled, shas: Sequence[str]) -> F64:
    """Raw score (n,) of each row; higher is worse.

    ridge       weights over all features learnt from the bank's labelled rows: the default
    contrast    closeness to the bank times standard score (module docstring)
    nearest     mean over the row's 32 strongest features of the maximum cosine to a toxic feature: the
                plainest reading of the paper
    activation  mean z of the toxic features minus mean z of the aligned ones: no geometry
    dense       projection of the mean residual on the difference of means (bad - good): no SAE
    length      control: shorter is worse
    random      control: a number drawn from the row's own hash

    Raises:
        BankError: no such scorer.
    """
    sum_over_features = linear(scorer, bank)
    if sum_over_features is not None:
        return sum_over_features.scores(pooled)
    if scorer == "nearest":
        return _nearest(pooled, bank.closeness.toxic)
    if scorer == "dense":
        projected: F64 = pooled.residual.astype(np.float64) @ bank.dense.astype(np.float64)
        return projected
    if scorer == "length":
        return -pooled.n_tokens.astype(np.float64)
    if scorer == "random":
        return np.array([int(hashlib.sha256(s.encode()).hexdigest()[:13], 16) / 16**13 for s in shas])
    raise BankError(f"scorer {scorer}: unknown; use {', '.join(SCORERS)}")


def _nearest(pooled: Pooled, cosine: F32) -> F64:
    out = np.zeros(len(pooled))
    for row in range(len(pooled)):
        span = slice(int(pooled.indptr[row]), int(pooled.indptr[row + 1]))
        values = pooled.values[span]
        top = np.argpartition(-values, NEAREST_K)[:NEAREST_K] if len(values) > NEAREST_K else slice(None)
        if len(values):
            out[row] = cosine[pooled.indices[span][top]].mean()
    return out


@dataclass(frozen=True, slots=True, eq=False)
class Scale:
    """The bank's reference rows under one scorer: turns raw scores into comparable ones."""

    sorted: F64
    """reference scores, ascending"""

    @property
    def sd(self) -> float:
        """Standard deviation of the reference scores (1 when they are all equal)."""
        sd = float(self.sorted.std())
        return sd if sd > 0 else 1.0

    def standard(self, raw: F64) -> F64:
        """Standard score against the reference rows, so that several banks can be compared."""
        result: F64 = (raw - self.sorted.mean()) / self.sd
        return result

    def percentile(self, raw: F64) -> F64:
        """Share in [0, 1] of the reference rows that score lower."""
        result: F64 = np.searchsorted(self.sorted, raw, side="left") / len(self.sorted)
        return result


@dataclass(frozen=True, slots=True)
class Share:
    """One feature's exact part of a row's score."""

    feature: int
    value: float
    """x_f, see `Linear`"""
    weight: float
    share: float
    """in units of the score; over all features the shares sum to it"""


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
    def of(cls, scorer: str, bank: Bank) -> Shares | None:
        """For the scorers that are sums; None for the others, which have no feature shares."""
        score = linear(scorer, bank)
        if score is None:
            return None
        absent, reference = score.absent(), bank.reference
        excess = score.values(reference) - absent[reference.indices]
        centre = absent + np.bincount(reference.indices, excess, bank.d_sae) / len(reference)
        return cls(score, centre, bank.scale(scorer).sd)

    def active(self, pooled: Pooled) -> tuple[F64, F64]:
        """x and share (nnz,) of every stored activation."""
        x = self.linear.values(pooled)
        return x, (x - self.centre[pooled.indices]) * self.linear.weights[pooled.indices] / self.sd

    def absent(self, indices: I32) -> float:
        """What the features not in `indices` add to a row's score by being silent."""
        silent = np.ones(len(self.centre), bool)
        silent[indices] = False
        return float(((self.linear.absent() - self.centre) * self.linear.weights)[silent].sum() / self.sd)

    def top(self, pooled: Pooled, k: int) -> list[list[Share]]:
        """For each row its k active features with the largest positive shares, largest first."""
        x, share = self.active(pooled)
        weights = self.linear.weights
        out = []
        for start, end in pairwise(pooled.indptr.tolist()):
            part = share[start:end]
            best = np.argpartition(-part, k)[:k] if len(part) > k else np.arange(len(part))
            best = best[np.lexsort((pooled.indices[start:end][best], -part[best]))] + start
            best = best[share[best] > 0]
            columns = (pooled.indices[best], x[best], weights[pooled.indices[best]], share[best])
            out.append([Share(*of_one) for of_one in zip(*(c.tolist() for c in columns), strict=True)])
        return out
