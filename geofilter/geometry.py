"""Feature geometry and scores. Everything here is numpy over stored features; no model is needed.

The default score, for a row with pooled activations a (d_sae,):

    z_f = clip((a_f - mu_f) / (sd_f + 0.2 * median sd), -3, 6)
    c_f = max over toxic t of cos(d_f, d_t) - max over aligned p of cos(d_f, d_p)
    s   = mean over f of z_f * c_f

mu and sd come from background rows of ordinary chat; d_f is the unit decoder direction. `z_f * c_f` is
exactly feature f's share, so an explanation is a sum. The geometry follows Minegishi et al.
(arXiv 2605.00842): a gradient step that amplifies feature i moves feature j in proportion to
cos(d_i, d_j).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geofilter.errors import BankError
from geofilter.pooled import Pooled

if TYPE_CHECKING:
    from geofilter.bank import Bank

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]

Z_LOW, Z_HIGH = -3.0, 6.0
SD_FLOOR = 0.2
NEAREST_K = 32


def max_cosine(directions: F32, bank: F32) -> tuple[F32, I32]:
    """For each unit direction (n, d_in): largest cosine to the bank's (m, d_in), and which one it is.

    An exact inner-product search (FAISS), on the GPU where there is one.

    Raises:
        BankError: a bank direction has no length or is not a number.
    """
    import faiss

    if not np.isfinite(bank).all() or not np.isfinite(directions).all():
        raise BankError("a decoder direction is not a number; the SAE's weights are damaged")
    if len(bank) == 0 or (np.linalg.norm(bank, axis=1) < 0.5).any():
        raise BankError("a bank feature has no decoder direction (zero norm); build the bank again")
    index: Any = faiss.IndexFlatIP(bank.shape[1])
    on_gpu = hasattr(faiss, "StandardGpuResources") and faiss.get_num_gpus() > 0
    resources = faiss.StandardGpuResources() if on_gpu else None  # must live as long as the index
    if resources is not None:
        index = faiss.index_cpu_to_gpu(resources, 0, index)
    index.add(np.ascontiguousarray(bank, dtype=np.float32))
    cosine, which = index.search(np.ascontiguousarray(directions, dtype=np.float32), 1)
    return cosine[:, 0], which[:, 0].astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class Closeness:
    """Cosines of every feature of the SAE to a bank; depends on target and bank only, never on a row."""

    toxic: F32
    """(d_sae,) largest cosine to a toxic feature"""
    aligned: F32
    """(d_sae,) largest cosine to an aligned feature"""
    nearest: I32
    """(d_sae,) position in the bank's toxic list of the nearest toxic feature"""

    @property
    def contrast(self) -> F32:
        """c_f, the weight of feature f in the default score."""
        return self.toxic - self.aligned


def closeness(directions: F32, toxic: I32, aligned: I32) -> Closeness:
    """Search every feature's direction (d_sae, d_in) against the toxic and the aligned list once."""
    near, which = max_cosine(directions, directions[toxic])
    return Closeness(near, max_cosine(directions, directions[aligned])[0], which)


@dataclass(frozen=True, slots=True, eq=False)
class Background:
    """Usual activation of every feature over ordinary chat."""

    mean: F32
    """(d_sae,) mu"""
    sd: F32
    """(d_sae,)"""

    @classmethod
    def of(cls, pooled: Pooled, d_sae: int) -> Background:
        """Mean and standard deviation over the rows, absent features counting as 0."""
        n = max(1, len(pooled))
        total = np.bincount(pooled.indices, pooled.values, d_sae) / n
        square = np.bincount(pooled.indices, pooled.values.astype(np.float64) ** 2, d_sae) / n
        return cls(total.astype(np.float32), np.sqrt(np.maximum(square - total**2, 0)).astype(np.float32))

    @property
    def scale(self) -> F32:
        """sd + 0.2 * median sd; the median is over features that vary, since wide SAEs have many that do not."""
        varying = self.sd[self.sd > 0]
        floor = float(np.median(varying)) if len(varying) else 1.0
        return (self.sd + np.float32(SD_FLOOR * floor)).astype(np.float32)

    def z(self, values: F32, indices: I32) -> F64:
        """Clipped standard score of activations `values` of the features `indices`."""
        raw = (values.astype(np.float64) - self.mean[indices]) / self.scale[indices]
        return np.clip(raw, Z_LOW, Z_HIGH)

    def z_absent(self) -> F64:
        """(d_sae,) standard score of an activation of 0."""
        return np.clip(-self.mean.astype(np.float64) / self.scale, Z_LOW, Z_HIGH)


def contrast_scores(pooled: Pooled, background: Background, weights: F32) -> F64:
    """s(x) under one or more closeness tables at once.

    Args:
        weights: (d_sae,) or (d_sae, m) closeness c.

    Returns:
        (n,) or (n, m). The sum runs over active features only: an absent one contributes a constant.
    """
    import scipy.sparse as sp

    d_sae = len(background.mean)
    absent = background.z_absent()
    excess = background.z(pooled.values, pooled.indices) - absent[pooled.indices]
    matrix = sp.csr_matrix((excess, pooled.indices, pooled.indptr), shape=(len(pooled), d_sae))
    w = weights.astype(np.float64)
    result: F64 = (matrix @ w + absent @ w) / d_sae
    return result


@dataclass(frozen=True, slots=True)
class Share:
    """One feature's exact part of a row's score."""

    feature: int
    z: float
    closeness: float
    """c_f, or the scorer's weight of the feature"""
    share: float
    """in units of the score; over all features the shares sum to it"""


@dataclass(frozen=True, slots=True, eq=False)
class Shares:
    """Splits a linear score into features: share_f = (z_f - mean reference z_f) * w_f / unit.

    The reference mean is taken off because the score is standardised against the reference rows, so the
    shares of all features, absent ones included, sum to the score exactly.
    """

    background: Background
    weights: F64
    """(d_sae,)"""
    centre: F64
    """(d_sae,) mean z over the reference rows"""
    unit: float
    """d_sae times the standard deviation of the reference scores"""

    @classmethod
    def of(cls, scorer: str, bank: Bank) -> Shares | None:
        """For the linear scorers; None for the others, which have no feature shares."""
        weights = linear_weights(scorer, bank)
        if weights is None:
            return None
        absent = bank.background.z_absent()
        reference = bank.reference
        excess = bank.background.z(reference.values, reference.indices) - absent[reference.indices]
        centre = absent + np.bincount(reference.indices, excess, bank.d_sae) / len(reference)
        return cls(bank.background, weights.astype(np.float64), centre, bank.d_sae * bank.scale(scorer).sd)

    def active(self, pooled: Pooled) -> tuple[F64, F64]:
        """z and share (nnz,) of every stored activation."""
        z = self.background.z(pooled.values, pooled.indices)
        return z, (z - self.centre[pooled.indices]) * self.weights[pooled.indices] / self.unit

    def absent(self, indices: I32) -> float:
        """What the features not in `indices` add to a row's score by being silent."""
        silent = np.ones(len(self.weights), bool)
        silent[indices] = False
        z = self.background.z_absent()
        return float(((z - self.centre) * self.weights)[silent].sum() / self.unit)

    def top(self, pooled: Pooled, k: int) -> list[list[Share]]:
        """For each row its k active features with the largest positive shares, largest first."""
        z, share = self.active(pooled)
        out = []
        for row in range(len(pooled)):
            start, end = int(pooled.indptr[row]), int(pooled.indptr[row + 1])
            part = share[start:end]
            best = np.argpartition(-part, k)[:k] if len(part) > k else np.arange(len(part))
            best = best[np.lexsort((pooled.indices[start:end][best], -part[best]))] + start
            out.append(
                [
                    Share(int(f := pooled.indices[i]), float(z[i]), float(self.weights[f]), float(share[i]))
                    for i in best
                    if share[i] > 0
                ]
            )
        return out


SCORERS = ("contrast", "nearest", "activation", "dense", "length", "random")


def raw_scores(scorer: str, bank: Bank, pooled: Pooled, shas: Sequence[str]) -> F64:
    """Raw score (n,) of each row; higher is worse.

    contrast    the default (module docstring)
    nearest     mean over the row's 32 strongest features of the maximum cosine to a toxic feature: the
                plainest reading of the paper
    activation  mean z of the toxic features minus mean z of the aligned ones: no geometry
    dense       projection of the mean residual on the difference of means (bad - good): no SAE
    length      control: shorter is worse
    random      control: a number drawn from the row's own hash

    Raises:
        BankError: no such scorer.
    """
    weights = linear_weights(scorer, bank)
    if weights is not None:
        return contrast_scores(pooled, bank.background, weights)
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


def linear_weights(scorer: str, bank: Bank) -> F32 | None:
    """Weight (d_sae,) of each feature's z in a linear scorer; None for the others."""
    if scorer == "contrast":
        return bank.closeness.contrast
    if scorer == "activation":
        weights = np.zeros(bank.d_sae, np.float32)
        weights[bank.toxic] = bank.d_sae / len(bank.toxic)
        weights[bank.aligned] = -bank.d_sae / len(bank.aligned)
        return weights
    return None


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
