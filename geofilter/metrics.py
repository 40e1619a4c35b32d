"""Small statistics: AUROC with a bootstrap interval, precision in the top, rank correlation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


def ranks(x: Floats) -> npt.NDArray[np.float64]:
    """1-based ranks, ties given their mean: `[3, 1, 3] -> [2.5, 1, 2.5]`."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mean: npt.NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return mean


def auroc(score: Floats, bad: npt.NDArray[np.bool_]) -> float:
    """Chance that a bad row scores above a good one (ties count half); nan without both kinds."""
    n_bad, n_good = int(bad.sum()), int((~bad).sum())
    if not n_bad or not n_good:
        return float("nan")
    return float((ranks(score)[bad].sum() - n_bad * (n_bad + 1) / 2) / (n_bad * n_good))


def cluster_bootstrap(
    groups: Sequence[str] | npt.NDArray[np.int64], rounds: int = 1000, seed: int = 0
) -> Iterator[npt.NDArray[np.int64]]:
    """Row positions of each draw: as many groups as there are, with replacement, each with all of its rows.

    Rows that answer the same prompt are not independent; drawing them one by one makes intervals too narrow (Davison
    and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8). A draw has as many rows as its groups
    hold, so about n, not exactly n.
    """
    _, keys = np.unique(np.asarray(groups), return_inverse=True)
    order = np.argsort(keys, kind="stable")
    size = np.bincount(keys)
    start = np.cumsum(size) - size
    rng = np.random.default_rng(seed)
    for _ in range(rounds):
        drawn = rng.integers(0, len(size), len(size))
        length = size[drawn]
        # Within each drawn group 0, 1, ..., counted on from where the group starts in `order`.
        within = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
        yield order[np.repeat(start[drawn], length) + within]


def auroc_interval(
    score: Floats,
    bad: npt.NDArray[np.bool_],
    groups: Sequence[str] | None = None,
    rounds: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """95 % bootstrap interval of the AUROC; whole groups (same prompt) are drawn together when given."""
    drawn = cluster_bootstrap(np.arange(len(score)) if groups is None else groups, rounds, seed)
    values = [auroc(score[rows], bad[rows]) for rows in drawn]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def precision_at(score: Floats, bad: npt.NDArray[np.bool_], fraction: float) -> float:
    """Share of bad rows among the `fraction` highest scores (one row at least)."""
    n = max(1, round(fraction * len(score)))
    return float(bad[np.argsort(-score, kind="stable")[:n]].mean())


def spearman(x: Floats, y: Floats) -> float:
    """Rank correlation; 0 when either side is constant."""
    a, b = ranks(x), ranks(y)
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])
