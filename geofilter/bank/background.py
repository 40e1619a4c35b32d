"""Usual activations: how unusual one is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geofilter.arrays import F32, F64, I32
from geofilter.bank.features import Pooled

if TYPE_CHECKING:
    import scipy.sparse as sp


Z_LOW, Z_HIGH = -3.0, 6.0
SD_FLOOR = 0.2
SHARPNESS = 3.0
"""of the logarithm: the larger, the more presence counts and the less amount"""
COMMON, OFTENER, CONTENT = 0.03, 3.0, 0.2
"""a feature counts as one of tone and punctuation that fires on more than this share of the tokens of ordinary chat,
and on so many times more than the mean feature, or with less than this part of its squared activation on words with
content, see docs/method.md"""


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

    def log(self, values: F32, indices: I32) -> F64:
        """log(1 + 3 a / scale) of activations `values` of the features `indices`; 0 for an absent one."""
        result: F64 = np.log1p(SHARPNESS * values.astype(np.float64) / self.scale[indices])
        return result

    def log_matrix(self, pooled: Pooled) -> sp.csr_matrix:
        """(n, d_sae) `log` of every row's activations."""
        import scipy.sparse as sp

        x = self.log(pooled.values, pooled.indices)
        return sp.csr_matrix((x, pooled.indices, pooled.indptr), shape=(len(pooled), len(self.mean)))
