"""The largest values of each row of a sparse matrix, for many rows at once."""

from __future__ import annotations

import numpy as np

from geofilter.arrays import F64, I32, I64, Positions

_PARTS = 16
"""pieces of a row whose maxima bound its largest values from below; more than values are asked for"""


def strongest(values: F64, indices: I32, indptr: I64, most: int) -> Positions:
    """Places (n, most) in `values` of the largest positive ones of each row, largest first, of equal ones the one with
    the lower index; -1 where a row has no more.

    Args:
        values: (nnz,)
        indices: (nnz,)
        indptr: (n + 1,) where the rows of `values` begin.
        most: below 16.
    """
    n, size = len(indptr) - 1, np.diff(indptr)
    out = np.full((n, most), -1, np.int64)
    bound = np.zeros(n)
    long = np.flatnonzero(size >= _PARTS)
    if len(long):
        starts = indptr[long, None] + size[long, None] * np.arange(_PARTS) // _PARTS
        ends = indptr[long + 1, None]
        # Pairs of bounds: every other piece is that between two of them, the rest what is between the rows.
        edges = np.concatenate([starts, ends], axis=1).ravel().astype(np.int64)
        inside = edges < len(values)
        maxima = np.zeros(len(edges))
        maxima[inside] = np.maximum.reduceat(values, edges[inside])
        pieces = maxima.reshape(-1, _PARTS + 1)[:, :_PARTS]
        # As many pieces have a value that is no smaller, so the row has at least as many.
        bound[long] = np.maximum(0, np.partition(pieces, _PARTS - most, axis=1)[:, _PARTS - most])
    found = np.flatnonzero((values >= np.repeat(bound, size)) & (values > 0))
    row = np.searchsorted(indptr, found, side="right") - 1
    order = np.lexsort((indices[found], -values[found], row))
    found, row = found[order], row[order]
    count = np.bincount(row, minlength=n)
    place = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    chosen = place < most
    out[row[chosen], place[chosen]] = found[chosen]
    return out
