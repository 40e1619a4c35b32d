"""Feature geometry: how close the SAE's features are to a bank's, and how unusual an activation is. No model.

Closeness follows Minegishi et al. (arXiv 2605.00842): a gradient step that amplifies feature i moves feature j in
proportion to cos(d_i, d_j), d the unit decoder directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geofilter.arrays import F32, F64, I32
from geofilter.errors import BankError
from geofilter.pooled import Pooled

if TYPE_CHECKING:
    import scipy.sparse as sp


Z_LOW, Z_HIGH = -3.0, 6.0
SD_FLOOR = 0.2
SHARPNESS = 3.0
"""of the logarithm: the larger, the more presence counts and the less amount"""


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
        """c_f, the weight of feature f in the contrast score."""
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

    def log(self, values: F32, indices: I32) -> F64:
        """log(1 + 3 a / scale) of activations `values` of the features `indices`; 0 for an absent one."""
        result: F64 = np.log1p(SHARPNESS * values.astype(np.float64) / self.scale[indices])
        return result

    def log_matrix(self, pooled: Pooled) -> sp.csr_matrix:
        """(n, d_sae) `log` of every row's activations."""
        import scipy.sparse as sp

        x = self.log(pooled.values, pooled.indices)
        return sp.csr_matrix((x, pooled.indices, pooled.indptr), shape=(len(pooled), len(self.mean)))
