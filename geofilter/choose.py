"""Which rows to label: those whose labels teach a bank most. Neither a model nor labels are needed.

Every other row is taken at random, the rest in turn from where a cut would fall and from the highest scores; each is
drawn from the half of its kind that is least like the rows taken before, so that ten alike rows are not labelled ten
times. Labels of the lowest scores, of the middle, of where banks disagree, and of the least alike row every time were
tried and taught less (docs/method.md).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from geofilter.geometry import F64
from geofilter.metrics import ranks

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
    taken: Sequence[int] = (),
    without: Collection[int] = (),
    seed: int = 0,
) -> list[Pick]:
    """Up to n rows to label next.

    Args:
        standard: (rows, banks) standard scores; each bank has its turn.
        names: of the banks.
        features: log activations (m, d_sae) of the given rows, in their order, see `Background.log_matrix`.
        taken: rows that are labelled already, in the order in which they were.
        without: other rows not to choose.
    """
    rng = np.random.default_rng([seed, len(taken)])
    free = np.setdiff1d(np.arange(len(standard)), np.fromiter({*taken, *without}, np.int64))
    known = features(np.array(taken[-REMEMBERED:], np.int64)) if taken else None
    picks: list[Pick] = []
    size = max(LEAST, round(POOL * len(standard)))
    for order, why in _kinds(standard, names, rng):
        if len(picks) == n or not len(free):
            return picks
        pool = free[np.argsort(-order[free], kind="stable")[:size]]
        if len(pool) > MOST:
            pool = rng.choice(pool, MOST, replace=False)
        found = features(pool)
        order_of_likeness = rng.permutation(len(pool)) if known is None else np.argsort(_likeness(found, known))
        row = int(rng.choice(order_of_likeness[: max(1, len(pool) // 2)]))
        picks.append(Pick(int(pool[row]), why))
        known = _with(known, found[row])
        free = free[free != pool[row]]
    raise AssertionError("unreachable")


def _kinds(standard: F64, names: list[str], rng: np.random.Generator) -> Iterator[tuple[F64, str]]:
    """Without end: what to take the largest of, and its name."""
    rank = np.stack([ranks(column) for column in standard.T], axis=1) / len(standard)
    while True:
        for b, name in enumerate(names):
            yield -np.abs(rank[:, b] - CUT), f"near a cut under {name}"
            yield rng.random(len(standard)), ANYWHERE
            yield rank[:, b], f"high under {name}"
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
