"""Clusters of vectors: the same ones in whatever order the rows come.

Spherical k-means (FAISS) on a sample that is chosen and ordered by the rows' hashes, with a fixed seed and one thread;
then the two nearest centroids are merged until none are nearer than `SAME`; all rows go to their nearest centroid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import F32, I32, Bools, Digests, Positions

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


def centroids(vectors: npt.NDArray[Any], hashes: Digests) -> F32:
    """Unit centroids (k, d) of vectors (n, d) of length 1, n at least 1.

    Args:
        hashes: (n, 32) of the rows.
    """
    sample = by_hash(hashes, SAMPLE)
    x = np.ascontiguousarray(vectors[sample], dtype=np.float32)
    k = int(np.clip(round(np.sqrt(len(vectors) / 2)), FEWEST, MOST))
    found = _kmeans(x, k) if len(x) >= LEAST_ROWS else _unit(x.mean(0, keepdims=True))
    while len(found) > 1:
        cosine = found @ found.T - 2 * np.eye(len(found), dtype=np.float32)
        a, b = sorted(divmod(int(cosine.argmax()), len(found)))
        if cosine[a, b] < SAME:
            break
        nearest = assigned(x, found)
        mean = _unit(x[(nearest == a) | (nearest == b)].mean(0, keepdims=True))
        found = np.vstack([np.delete(found, [a, b], 0), mean])
    return found


def by_hash(hashes: Digests, most: int) -> Positions:
    """Up to so many rows, and their order, chosen by their hashes alone."""
    keys = np.ascontiguousarray(hashes[:, :8]).view(">u8").ravel()
    # Of many only the lowest are sorted; equal hashes are of equal rows, so which of them are taken is the same.
    lowest = np.argpartition(keys, most)[:most] if len(keys) > most else np.arange(len(keys))
    order: Positions = lowest[np.lexsort((lowest, keys[lowest]))]
    return order


def assigned(vectors: npt.NDArray[Any], found: F32) -> I32:
    """The nearest centroid of each vector (n,)."""
    out = np.zeros(len(vectors), np.int32)
    for start in range(0, len(vectors), SAMPLE):
        part = slice(start, start + SAMPLE)
        out[part] = (vectors[part].astype(np.float32) @ found.T).argmax(1)
    return out


def duplicates(vectors: npt.NDArray[Any], of: I32) -> Bools:
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
