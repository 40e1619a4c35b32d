"""Which rows to label: those whose labels teach a bank most. Neither a model nor labels are needed.

Rows are taken in turn from both tails of every bank, from the middle, from where banks disagree most, and at random;
within each of these the row that is least like those taken already (farthest-first traversal, Gonzalez, Theoretical
Computer Science 38, 1985), so that ten alike rows are not labelled ten times.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import cycle
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from geofilter.geometry import F64
from geofilter.metrics import ranks

if TYPE_CHECKING:
    import scipy.sparse as sp

POOL = 0.05
"""share of the rows that each kind chooses from"""
LEAST = 20
"""rows that each kind chooses from at least"""
MOST = 200
"""rows compared for likeness at most, for each row chosen"""
ANYWHERE = "at random"

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Pick:
    """A row to label."""

    position: int
    """0-based among the scored rows"""
    why: str
    """where it was taken from, as text"""


def choose(
    n: int,
    standard: F64,
    names: list[str],
    features: Callable[[Positions], sp.csr_matrix],
    taken: Collection[int] = (),
    seed: int = 0,
) -> list[Pick]:
    """Up to n rows to label next.

    Args:
        standard: (rows, banks) standard scores; the bank that counts most is the first.
        names: of the banks.
        features: log activations (m, d_sae) of the given rows, see `Background.log_matrix`.
        taken: rows that are labelled already, or need no label because another row has the same bytes.
    """
    rng = np.random.default_rng([seed, len(taken)])
    free = np.setdiff1d(np.arange(len(standard)), np.fromiter(taken, np.int64, len(taken)))
    known = features(np.array(sorted(taken), np.int64)) if taken else None
    picks: list[Pick] = []
    size = max(LEAST, round(POOL * len(standard)))
    for order, why in _kinds(standard, names, rng):
        if len(picks) == n or not len(free):
            return picks
        pool = free[np.argsort(-order[free], kind="stable")[:size]]
        if len(pool) > MOST:
            pool = rng.choice(pool, MOST, replace=False)
        found = features(pool)
        row = 0 if known is None else int(_likeness(found, known).argmin())
        picks.append(Pick(int(pool[row]), why))
        known = _with(known, found[row])
        free = free[free != pool[row]]
    raise AssertionError("unreachable")


def _kinds(standard: F64, names: list[str], rng: np.random.Generator) -> Iterator[tuple[F64, str]]:
    """Without end: what to take the largest of, and its name."""
    rank = np.stack([ranks(column) for column in standard.T], axis=1) / len(standard)
    middle = -np.abs(rank[:, 0] - 0.5)
    apart = rank.max(1) - rank.min(1)
    banks = cycle(range(len(names)))
    while True:
        for kind in ("high", "low", "middle", "high", "apart", ANYWHERE):
            b = next(banks) if kind in ("high", "low") else 0
            if kind == "high":
                yield rank[:, b], f"high under {names[b]}"
            elif kind == "low":
                yield -rank[:, b], f"low under {names[b]}"
            elif kind == "middle":
                yield middle, f"in the middle of {names[0]}"
            elif kind == "apart" and len(names) > 1:
                yield apart, "the banks disagree"
            elif kind == ANYWHERE:
                yield rng.random(len(standard)), ANYWHERE


def _likeness(rows: sp.csr_matrix, known: sp.csr_matrix) -> F64:
    """Largest cosine (n,) of each row to any known one."""
    out: F64 = np.asarray((_unit(rows) @ _unit(known).T).max(1).todense()).ravel()
    return out


def _unit(rows: sp.csr_matrix) -> sp.csr_matrix:
    import scipy.sparse as sp

    norm = np.sqrt(rows.multiply(rows).sum(1).A1)
    out: sp.csr_matrix = sp.diags(1 / np.where(norm > 0, norm, 1.0)) @ rows
    return out


def _with(known: sp.csr_matrix | None, row: sp.csr_matrix) -> sp.csr_matrix:
    import scipy.sparse as sp

    return row if known is None else sp.vstack([known, row], format="csr")
