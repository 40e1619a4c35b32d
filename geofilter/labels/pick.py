"""Which rows to label, so that some of them are bad and they are not all alike. Needs neither a model nor labels.

Every other row is taken at random, the rest in turn from where a cut would fall and from the highest scores; each of
these is drawn from the half of its kind that is least like the rows taken before, so that ten alike rows are not
labelled ten times. What is taken at random is taken so from all rows: drawn from those least alike, they teach less and
say less of what a bank is worth. Labels of the lowest scores, of the middle, of where banks disagree, and of the least
alike row every time were tried and taught less (docs/method.md).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from geofilter.arrays import F64, Positions
from geofilter.run.labelled import AT_RANDOM
from geofilter.stats import ranks

if TYPE_CHECKING:
    import scipy.sparse as sp


POOL = 0.1
"""share of the rows that each kind chooses from"""
CUT = 0.8
"""rank where a cut would fall"""
LEAST = 20
"""rows that each kind chooses from at least"""
MOST = 200
"""rows compared for likeness at most, for each row chosen"""
REMEMBERED = 1000
"""labelled rows that others are compared with at most, the latest ones"""


@dataclass(frozen=True, slots=True)
class Pick:
    """A row to label."""

    position: int
    """0-based among the scored rows"""
    why: str
    """where it was taken from, as text"""


def _kinds(standard: F64, names: list[str]) -> Iterator[tuple[F64 | None, str]]:
    """Without end: what to take the largest of, None for a row at random, and its name."""
    rank = np.stack([ranks(column) for column in standard.T], axis=1) / len(standard)
    while True:
        for b, name in enumerate(names):
            yield -np.abs(rank[:, b] - CUT), f"near a cut under {name}"
            yield None, AT_RANDOM
            yield rank[:, b], f"high under {name}"
            yield None, AT_RANDOM


def _pool(order: F64, free: Positions, n: int, rng: np.random.Generator) -> Positions:
    """The free rows with the largest values that one row is chosen from."""
    size = max(LEAST, round(POOL * n))
    pool = free[np.argsort(-order[free], kind="stable")[:size]]
    return pool if len(pool) <= MOST else rng.choice(pool, MOST, replace=False)


def _unit(rows: sp.csr_matrix) -> sp.csr_matrix:
    """Rows of length 1."""
    import scipy.sparse as sp

    norm = np.sqrt(rows.multiply(rows).sum(1).A1)
    out: sp.csr_matrix = (sp.diags(1 / np.where(norm > 0, norm, 1.0)) @ rows).tocsr()
    return out


def pick_rows(
    n: int,
    standard: F64,
    names: list[str],
    features: Callable[[Positions], sp.csr_matrix],
    taken: Sequence[int] = (),
    without: Collection[int] = (),
    seed: int = 0,
) -> list[Pick]:
    """Up to n rows to label next.

    Args:
        standard: (rows, banks) standard scores; each bank has its turn.
        names: of the banks.
        features: log activations (m, d_sae) of the given rows, ascending, see `Background.log_matrix`. Asked for all
            rows at once that are compared: reading them may cost a pass over a whole run.
        taken: rows that are labelled already, in the order in which they were.
        without: other rows not to choose.
    """
    rng = np.random.default_rng([seed, len(taken)])
    free = np.setdiff1d(np.arange(len(standard)), np.fromiter({*taken, *without}, np.int64))
    kinds = _kinds(standard, names)
    known = list(taken[-REMEMBERED:])
    picks: list[Pick] = []
    while len(picks) < n and len(free):
        turns = list(islice(kinds, n - len(picks)))
        # Drawn before the others, which would leave only what they do not take.
        drawn = rng.permutation(free)[: sum(order is None for order, _ in turns)]
        free, lots = np.setdiff1d(free, drawn), iter(np.split(drawn, len(drawn)) if len(drawn) else ())
        pools = [
            (next(lots, free[:0]) if order is None else _pool(order, free, len(standard), rng), why)
            for order, why in turns
        ]
        compared = np.unique(np.concatenate([known, *(pool for pool, _ in pools)]).astype(np.int64))
        unit = _unit(features(compared))
        for whole, why in pools:
            pool = whole if why == AT_RANDOM else np.intersect1d(whole, free)
            if not len(pool):
                continue
            here, before = np.searchsorted(compared, pool), np.searchsorted(compared, known)
            likeness = (
                np.asarray((unit[here] @ unit[before].T).max(1).todense()).ravel() if known else rng.random(len(pool))
            )
            position = int(rng.choice(pool[np.argsort(likeness)[: max(1, len(pool) // 2)]]))
            picks.append(Pick(position, why))
            known.append(position)
            free = free[free != position]
    return picks
