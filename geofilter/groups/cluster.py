"""Clusters of vectors: the same ones in whatever order the rows come.

Spherical k-means (FAISS) on a sample that is chosen and ordered by the rows' hashes, with a fixed seed and one thread;
then the two nearest centroids are merged until none are nearer than `SAME`; all rows go to their nearest centroid.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import F32, I32, Bools, Digests, Positions

Keys = npt.NDArray[np.uint64]

FEWEST, MOST = 2, 12
"""clusters that are looked for: about the root of half of the rows, in these bounds"""
LEAST_ROWS = 8
"""rows below which all are one cluster"""
SAME = 0.9
"""cosine of two centroids from which on their clusters are one"""
SAMPLE = 10_000
"""rows that centroids are learnt from"""
ROUNDS, TRIES = 25, 5
SEED = 1234
DUPLICATE = 0.985
"""cosine of two rows from which on they are near-duplicates"""
COMPARED = 5_000
"""rows that are compared for that"""


def centroids(sample: npt.NDArray[Any], n: int) -> F32:
    """Unit centroids (k, d) of n vectors of length 1, n at least 1.

    Args:
        sample: (m, d) those that `lowest` chooses by the hashes of their rows, up to `SAMPLE`.
    """
    x = np.ascontiguousarray(sample, dtype=np.float32)
    k = int(np.clip(round(np.sqrt(n / 2)), FEWEST, MOST))
    found = _kmeans(x, k) if len(x) >= LEAST_ROWS else _unit(x.mean(0, keepdims=True))
    while len(found) > 1:
        cosine = found @ found.T - 2 * np.eye(len(found), dtype=np.float32)
        a, b = sorted(divmod(int(cosine.argmax()), len(found)))
        if cosine[a, b] < SAME:
            break
        of = nearest(x, found)[0]
        rows, others = x[(of == a) | (of == b)], np.delete(found, [a, b], 0)
        # Of centroids that are the same to the last digit all rows go to the first: two others may have none.
        found = np.vstack([others, _unit(rows.mean(0, keepdims=True))]) if len(rows) else others
    return found


def keys_of(hashes: Digests) -> Keys:
    """What is compared of hashes (n, 32): their beginnings (n,)."""
    return np.ascontiguousarray(hashes[:, :8]).view(">u8").ravel().astype(np.uint64)


def lowest(keys: Keys, most: int) -> Positions:
    """Up to so many rows, and their order, chosen by the keys of their hashes alone, see `keys_of`."""
    # Of many only the lowest are sorted; equal hashes are of equal rows, so which of them are taken is the same.
    few = np.argpartition(keys, most)[:most] if len(keys) > most else np.arange(len(keys))
    order: Positions = few[np.lexsort((few, keys[few]))]
    return order


def lowest_of(pieces: Iterable[tuple[Positions, Digests]], most: int) -> Positions:
    """The same of rows that come piece by piece with their hashes; ascending."""
    rows, keys = np.zeros(0, np.int64), np.zeros(0, np.uint64)
    for more, hashes in pieces:
        rows, keys = np.concatenate([rows, more]), np.concatenate([keys, keys_of(hashes)])
        few = lowest(keys, most)
        rows, keys = rows[few], keys[few]
    return np.sort(rows)


def nearest(vectors: npt.NDArray[Any], found: F32) -> tuple[I32, F32]:
    """The nearest centroid of each vector (n,), and the cosine with it."""
    x = vectors.astype(np.float32)
    of: I32 = (x @ found.T).argmax(1).astype(np.int32)
    cosine = np.zeros(len(x), np.float32)
    for c in np.unique(of).tolist():
        cosine[of == c] = x[of == c] @ found[c]
    return of, cosine


def duplicates(vectors: npt.NDArray[Any], of: npt.NDArray[np.integer[Any]]) -> Bools:
    """Which rows (n,) are near-duplicates of an earlier one of the same cluster, among the first `COMPARED`.

    Args:
        of: (n,) clusters.
    """
    again = np.zeros(len(vectors), bool)
    x, of = np.ascontiguousarray(vectors[:COMPARED], dtype=np.float32), of[:COMPARED]
    for start in range(0, len(x), 500):
        block = slice(start, min(start + 500, len(x)))
        near = (x[block] @ x[: block.stop].T >= DUPLICATE) & (of[block, None] == of[: block.stop])
        again[block] = np.tril(near, start - 1).any(1)
    return again


def _kmeans(x: F32, k: int) -> F32:
    import faiss

    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        # All of the sample is used: what FAISS leaves out by itself it would draw by place.
        found = faiss.Kmeans(
            x.shape[1], k, niter=ROUNDS, nredo=TRIES, seed=SEED, spherical=True, min_points_per_centroid=1,
            max_points_per_centroid=len(x),
        )  # fmt: skip
        found.train(x)
    finally:
        faiss.omp_set_num_threads(threads)
    return np.asarray(found.centroids, np.float32)


def _unit(rows: F32) -> F32:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: F32 = np.divide(rows, length, out=np.zeros_like(rows), where=length > 0)
    return unit
