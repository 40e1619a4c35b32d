"""Weights over all features, learnt from labelled rows: the default scorer.

    x_f  = log(1 + 3 a_f / s_f)        s_f = sd_f + 0.2 * median sd of the background, see `background.Background`
    w    = argmin over w of sum over rows of (y - w . x)^2 + penalty * |w|^2        y = +1 bad, -1 good
    s(x) = sum over f of w_f * x_f

Ridge regression (Hoerl and Kennard, Technometrics 12, 1970, eq. 2.1), x and y less their mean over the rows, or over
the row's group, so that what the group is about drops out. The penalty is a share of the rows' mean squared distance
from that mean: a tenth for rows of the same kind as those to be scored, all of it for groups that are to carry over to
other subjects. The logarithm lies between presence and amount: code is told apart by which features are there, toxic
text by how strong they are (docs/method.md has the comparison).

Known directions, such as those learnt from the package's own texts, can be given as priors: each is one more column,
so that few labels need only say how far to trust it. The result is still one weight a feature.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geofilter.arrays import F32, F64, Bools, Positions
from geofilter.bank.background import Background
from geofilter.bank.features import Pooled

if TYPE_CHECKING:
    import scipy.sparse as sp


PENALTY = 0.1
"""share of the rows' mean squared distance from their mean"""
PENALTY_OF_GROUPS = 1.0
"""the same, where rows are compared within their group only"""
PRIOR = 0.03
"""mean square of a prior's column, as a share of the rows' mean squared distance from their mean"""
TOLERANCE = 1e-7


class Ridge:
    """The regression on given rows: made once, solved for as many labellings as wanted.

    Args:
        rows: n of them.
        groups: (n,) rows with the same one are centred on their own mean; None for one mean over all rows.
        priors: (d_sae, m) known directions.
        reference: ordinary rows; a prior is divided by the standard deviation of its score there.
    """

    def __init__(
        self,
        rows: Pooled,
        background: Background,
        groups: Sequence[str] | None = None,
        priors: F32 | None = None,
        reference: Pooled | None = None,
    ) -> None:
        import scipy.sparse as sp

        self._x = background.log_matrix(rows)
        n, self._d_sae = self._x.shape
        _, self._member = np.unique(["" for _ in range(n)] if groups is None else groups, return_inverse=True)
        self._sizes = np.bincount(self._member)
        self._sum = sp.csr_matrix((np.ones(n), (self._member, np.arange(n))), shape=(len(self._sizes), n))
        self._spread = self._squared_distance(self._x) / n
        self._priors = np.zeros((self._d_sae, 0))
        if priors is not None and reference is not None:
            usual = np.asarray(background.log_matrix(reference) @ priors.astype(np.float64)).std(0)
            self._priors = priors / np.where(usual > 0, usual, np.inf) * np.sqrt(PRIOR * self._spread)
            self._x = sp.hstack([self._x, self._x @ self._priors], format="csr")
        self._share = PENALTY if groups is None else PENALTY_OF_GROUPS
        self._penalty = self._share * self._squared_distance(self._x) / n

    def _centred(self, v: F64) -> F64:
        """(n,) or (n, m) less the mean of each row's group."""
        out: F64 = v - ((self._sum @ v).T / self._sizes).T[self._member]
        return out

    def _squared_distance(self, x: sp.csr_matrix) -> float:
        """Sum over rows of the squared distance from the group's mean."""
        totals = self._sum @ x
        return float(x.multiply(x).sum() - (totals.multiply(totals).sum(1).A1 / self._sizes).sum())

    def weights(self, labels: F64) -> F32:
        """Weights (d_sae,) or (d_sae, m) for labels (n,) or (n, m), +1 bad and -1 good.

        Solved in the rows (n equations) by conjugate gradients: nothing of size n x n or d_sae x d_sae is made.
        """
        from scipy.sparse.linalg import LinearOperator, cg

        n = len(self._member)

        def apply(v: F64) -> F64:
            out: F64 = self._centred(self._x @ (self._x.T @ self._centred(v))) + self._penalty * v
            return out

        system: Any = LinearOperator((n, n), matvec=apply, dtype=np.float64)  # type: ignore[call-arg,misc]
        columns = labels.astype(np.float64).reshape(n, -1)
        solved = [cg(system, self._centred(column), rtol=TOLERANCE, maxiter=10 * n)[0] for column in columns.T]
        all_weights = self._x.T @ self._centred(np.column_stack(solved))
        out = all_weights[: self._d_sae] + self._priors @ all_weights[self._d_sae :]
        weights: F32 = out.reshape(self._d_sae, *labels.shape[1:]).astype(np.float32)
        return weights

    def held_out(self, labels: F64, folds: Iterable[tuple[Positions, Positions]]) -> F64:
        """Score (n,) of each row by what is learnt from its fold's other part; nan of rows that no fold scores.

        Solved in the products of the rows, n x n numbers that are made once: for few rows and many folds. Priors keep
        the scale that they have over all rows. Rows are centred together, whatever their groups; scores of different
        folds have no zero in common.

        Args:
            labels: (n,) +1 bad and -1 good.
            folds: positions learnt from, and positions scored.
        """
        products: F64 = (self._x @ self._x.T).toarray()
        scores = np.full(len(labels), np.nan)
        for train, test in folds:
            inner = products[np.ix_(train, train)]
            means = inner.mean(0)
            centred = inner - means - means[:, None] + means.mean()
            penalty = self._share * np.trace(centred) / len(train)
            of_train = labels[train] - labels[train].mean()
            solved = np.linalg.solve(centred + penalty * np.eye(len(train)), of_train)
            scores[test] = products[np.ix_(test, train)] @ (solved - solved.mean())
        return scores


def shuffled(bad: Bools, groups: Sequence[str] | None, n: int, seed: int) -> F64:
    """Labels (rows, n), +1 and -1, dealt out anew n times; within each group when groups are given."""
    rng = np.random.default_rng(seed)
    labels = np.where(bad, 1.0, -1.0)
    keys = np.zeros(len(bad), np.int64) if groups is None else np.unique(groups, return_inverse=True)[1]
    order = np.argsort(keys, kind="stable")
    out = np.empty((len(bad), n))
    for j in range(n):
        # Sorting by group and then by chance deals out the labels of each group within it.
        drawn = np.lexsort((rng.random(len(bad)), keys))
        out[order, j] = labels[drawn]
    return out
