"""Pooled activations: of one row, and of many as the sparse matrix that shards and banks store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import F32, Bools, check_array

if TYPE_CHECKING:
    import scipy.sparse as sp


FURTHER = 65535
"""stands for a strongest token further on than can be said"""


@dataclass(frozen=True, slots=True, eq=False)
class Pooled:
    """n rows by d_sae features in CSR form, with each row's token count and mean residual."""

    indptr: npt.NDArray[np.int64]
    """(n + 1,)"""
    indices: npt.NDArray[np.int32]
    """(nnz,)"""
    values: npt.NDArray[np.float32]
    """(nnz,) mean activation over the row's response tokens"""
    n_tokens: npt.NDArray[np.int32]
    """(n,)"""
    residual: npt.NDArray[np.float16]
    """(n, d_in) mean residual over the same tokens"""

    def __len__(self) -> int:
        return len(self.indptr) - 1

    @classmethod
    def of(cls, rows: Sequence[RowFeatures], d_in: int) -> Pooled:
        """Stack row features."""
        if not rows:
            empty = np.zeros(0)
            return cls(
                np.zeros(1, np.int64), empty.astype(np.int32), empty.astype(np.float32),
                empty.astype(np.int32), np.zeros((0, d_in), np.float16),
            )  # fmt: skip
        return cls(
            np.concatenate([[0], np.cumsum([len(r.indices) for r in rows])]).astype(np.int64),
            np.concatenate([r.indices for r in rows]),
            np.concatenate([r.values for r in rows]),
            np.array([r.n_tokens for r in rows], np.int32),
            np.stack([r.residual for r in rows]),
        )

    def arrays(self, prefix: str = "") -> dict[str, npt.NDArray[Any]]:
        """The arrays by name, for a safetensors file."""
        return {prefix + name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[Any]], prefix: str = "") -> Pooled:
        """Inverse of `arrays`."""
        return cls(**{name: arrays[prefix + name] for name in cls.__slots__})

    def check(self, d_sae: int, prefix: str = "") -> None:
        """Refuse what scipy and numpy would read beyond their arrays for, or compute nonsense with.

        Args:
            d_sae: features of the SAE.
            prefix: of the arrays' names, in errors.

        Raises:
            ValueError: which array, and what of it.
        """
        n, nnz = self.n_tokens.size, self.indices.size
        check_array(f"{prefix}n_tokens", self.n_tokens, np.int32)
        check_array(f"{prefix}indptr", self.indptr, np.int64, (n + 1,))
        check_array(f"{prefix}indices", self.indices, np.int32)
        check_array(f"{prefix}values", self.values, np.float32, (nnz,))
        check_array(f"{prefix}residual", self.residual, np.float16, (n, None))
        if self.indptr[0] != 0 or self.indptr[-1] != nnz or (np.diff(self.indptr) < 0).any():
            raise ValueError(f"{prefix}indptr does not ascend from 0 to {nnz}")
        if nnz and not (self.indices.min() >= 0 and self.indices.max() < d_sae):
            raise ValueError(f"{prefix}indices has features other than 0 to {d_sae - 1}")
        ascends = self.indices[1:] > self.indices[:-1]
        begins = self.indptr[:-1][(self.indptr[:-1] > 0) & (self.indptr[:-1] < nnz)]
        ascends[begins - 1] = True  # from one row to the next
        if not ascends.all():
            raise ValueError(f"{prefix}indices does not ascend within a row")
        if nnz and self.values.min() < 0:
            raise ValueError(f"{prefix}values has an activation below 0")
        if n and self.n_tokens.min() < 0:
            raise ValueError(f"{prefix}n_tokens has a count below 0")

    def matrix(self, d_sae: int) -> sp.csr_matrix:
        """(n, d_sae) scipy CSR over the same memory."""
        import scipy.sparse as sp

        return sp.csr_matrix((self.values, self.indices, self.indptr), shape=(len(self), d_sae))

    def take(self, rows: npt.NDArray[np.int64]) -> Pooled:
        """The given rows, in that order."""
        start, size = self.indptr[rows], self.indptr[rows + 1] - self.indptr[rows]
        indptr = np.concatenate([[0], np.cumsum(size)]).astype(np.int64)
        # Within each row 0, 1, ..., counted on from where the row starts.
        flat = np.arange(indptr[-1]) + np.repeat(start - indptr[:-1], size)
        return Pooled(
            indptr,
            self.indices[flat], self.values[flat], self.n_tokens[rows], self.residual[rows],
        )  # fmt: skip

    def without(self, features: Sequence[int]) -> Pooled:
        """The same rows with these features silent."""
        kept = ~np.isin(self.indices, list(features))
        indptr = np.concatenate([[0], np.cumsum(kept)])[self.indptr].astype(np.int64)
        return Pooled(indptr, self.indices[kept], self.values[kept], self.n_tokens, self.residual)

    @staticmethod
    def concat(parts: Sequence[Pooled]) -> Pooled:
        """Rows of all parts, one after the other."""
        offsets = np.cumsum([0] + [int(p.indptr[-1]) for p in parts])
        return Pooled(
            np.concatenate([[0]] + [p.indptr[1:] + o for p, o in zip(parts, offsets, strict=False)]).astype(np.int64),
            *(
                np.concatenate([getattr(p, name) for p in parts])
                for name in ("indices", "values", "n_tokens", "residual")
            ),
        )


@dataclass(frozen=True, slots=True, eq=False)
class RowFeatures:
    """A row's pooled activations: mean over its kept response tokens."""

    indices: npt.NDArray[np.int32]
    """(nnz,) active features, ascending"""
    values: npt.NDArray[np.float32]
    """(nnz,) mean activation"""
    n_tokens: int
    """response tokens pooled"""
    residual: npt.NDArray[np.float16]
    """(d_in,) mean residual (vector at the hook) of the same tokens"""

    @staticmethod
    def together(windows: Sequence[RowFeatures]) -> RowFeatures:
        """Features of a row that was read in several windows: the mean over the tokens of all of them."""
        counts = np.array([window.n_tokens for window in windows])
        total = int(counts.sum())
        if len(windows) == 1 or not total:  # without a token that is finite there is nothing to weigh
            return windows[0]
        indices, of = np.unique(np.concatenate([window.indices for window in windows]), return_inverse=True)
        weighted = np.concatenate([window.values * (n / total) for window, n in zip(windows, counts, strict=True)])
        values = np.bincount(of, weighted, len(indices)).astype(np.float32)
        residual = np.average([window.residual.astype(np.float32) for window in windows], axis=0, weights=counts)
        return RowFeatures(indices, values, total, residual.astype(np.float16))


@dataclass(frozen=True, slots=True, eq=False)
class RowTokens:
    """What is kept of a row token by token."""

    kept: Bools
    """(n_response,) which response tokens were pooled; the others are outliers"""
    peak: npt.NDArray[np.uint16]
    """(nnz,) the kept token on which each of the row's features is strongest, the first of equals; or `FURTHER`"""
    shares: npt.NDArray[np.int8]
    """(banks, n_kept) share of each kept token in the row's score under each bank, in steps"""
    step: F32
    """(banks,)"""
