"""What kind of harm a row is close to: one direction for each topic of a bank's bad rows.

    u_t    = ridge weights that tell the bad rows of topic t from the bank's other bad rows, see `ridge`
    lean_t = u_t . (x - m) / sd        x as in `ridge`; m, sd: mean x and sd of u_t . x over the bank's bad rows
    topic score of t = standard score of the row + lean_t

The standard score says how harmful a row is under the bank, of whatever kind; the lean says which of the bank's kinds
of harm it is like. A lean is learnt among bad rows only, so it knows what a row is about, not whether it is harmful.
docs/method.md has what else was tried and how often the highest topic is the right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from geofilter.arrays import F32, F64, Bools
from geofilter.bank.background import Background
from geofilter.bank.features import Pooled
from geofilter.bank.linear import Linear
from geofilter.bank.ridge import Ridge

MIN_ROWS = 10
"""labelled rows that a bank, and a topic of a bank, needs on each side"""


@dataclass(frozen=True, slots=True, eq=False)
class Topics:
    """The topics of a bank; with no names it has none."""

    names: tuple[str, ...]
    weights: F32
    """(d_sae, k) u_t / sd"""
    centre: F32
    """(d_sae,) m"""

    @classmethod
    def of(cls, rows: Pooled, topics: Sequence[str], names: Sequence[str], background: Background) -> Topics:
        """Learn them.

        Args:
            rows: the bank's bad rows.
            topics: (n,) theirs; the rows of all others are what those of one are told from.
            names: see `usable`.
        """
        x = background.log_matrix(rows)
        centre = np.asarray(x.mean(0)).ravel()
        weights = np.zeros((len(centre), 0))
        if names:
            # One group: the penalty of groups, since what is learnt is to carry over to rows of other sources.
            learner = Ridge(rows, background, ["" for _ in topics])
            member = np.asarray(topics)[:, None] == np.asarray(names)
            weights = learner.weights(np.where(member, 1.0, -1.0)).astype(np.float64)
            sd = (x @ weights).std(0)
            weights = weights / np.where(sd > 0, sd, 1.0)
        return cls(tuple(names), weights.astype(np.float32), centre.astype(np.float32))

    def sums(self, background: Background) -> Linear:
        """u_t . x / sd, all at once."""
        return Linear(background, self.weights.astype(np.float64), "log")

    @property
    def offset(self) -> F64:
        """(k,) u_t . m / sd"""
        result: F64 = self.centre.astype(np.float64) @ self.weights.astype(np.float64)
        return result

    def of_feature(self, feature: int) -> list[str]:
        """Up to three topics that a feature speaks for: that of its largest weight, others from half of that on."""
        weights = self.weights[feature]
        order = np.argsort(-weights, kind="stable")[:3]
        return [self.names[t] for t in order if weights[t] > 0 and weights[t] >= weights.max() / 2]

    def without(self, features: Sequence[int]) -> Topics:
        """With these features counting nothing."""
        weights = self.weights.copy()
        weights[list(features)] = 0
        return replace(self, weights=weights)


def usable(topics: Sequence[str], bad: Bools) -> tuple[list[str], list[str]]:
    """Topics of labelled rows that can be told apart, and those with too few rows, both in the order of the rows.

    A topic needs `MIN_ROWS` on each side, and there must be two of them.

    Args:
        topics: (n,) of the rows, "" for none.
    """
    of = np.asarray(topics)
    names = [name for name in dict.fromkeys(topics) if name]
    enough = [name for name in names if min((bad & (of == name)).sum(), (~bad & (of == name)).sum()) >= MIN_ROWS]
    if len(enough) < 2:
        enough = []
    return enough, [name for name in names if name not in enough]
