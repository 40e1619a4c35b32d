"""Ways to turn a row's stored features into one number under a bank. No model is needed.

ridge       sum over features of weights learnt from the bank's labelled rows times log activation: the default, see
            `ridge`
contrast    closeness to the bank times standard score; it has no learnt weights
nearest     mean over the row's 32 strongest features of the maximum cosine to a toxic feature: the plainest reading of
            Minegishi et al. (arXiv 2605.00842)
activation  mean z of the toxic features minus mean z of the aligned ones: no geometry
dense       projection of the mean residual on the difference of means (bad - good): no SAE
length      control: shorter is worse
random      control: a number drawn from the row's own hash

    z_f = clip((a_f - mu_f) / (sd_f + 0.2 * median sd), -3, 6)
    c_f = max over toxic t of cos(d_f, d_t) - max over aligned p of cos(d_f, d_p)
    contrast = mean over f of z_f * c_f

`ridge`, `contrast` and `activation` are sums over features: an explanation of theirs is exact.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from geofilter.arrays import F32, F64
from geofilter.bank.bank import Bank
from geofilter.bank.features import Pooled
from geofilter.bank.linear import Linear, NullScales, Scale, Shares, contrast
from geofilter.config import SCORERS
from geofilter.errors import BankError

if TYPE_CHECKING:
    import scipy.sparse as sp


NEAREST_K = 32


class Scorer:
    """One way to score rows under a bank; what it needs of the bank's reference rows is computed once.

    Args:
        name: one of `config.SCORERS`, see the module docstring.

    Raises:
        BankError: no such scorer.
    """

    def __init__(self, bank: Bank, name: str) -> None:
        if name not in SCORERS:
            raise BankError(f"scorer {name}: unknown; use {', '.join(SCORERS)}")
        self.bank, self.name = bank, name

    @cached_property
    def linear(self) -> Linear | None:
        """The score as a sum over features; None for those that are none."""
        bank = self.bank
        if self.name == "ridge":
            return Linear(bank.background, bank.weights.astype(np.float64), "log")
        if self.name == "contrast":
            return contrast(bank.background, bank.closeness.contrast)
        if self.name == "activation":
            weights = np.zeros(bank.d_sae)
            weights[bank.toxic] = 1 / len(bank.toxic)
            weights[bank.aligned] = -1 / len(bank.aligned)
            weights[list(bank.excluded)] = 0
            return Linear(bank.background, weights, "z")
        return None

    def raw(self, pooled: Pooled, shas: Sequence[str], excess: sp.csr_matrix | None = None) -> F64:
        """Raw score (n,) of each row; higher is worse.

        Args:
            shas: (n,) hashes of the rows.
            excess: of the rows, see `Linear.excess`, where it is known already.
        """
        if self.linear is not None:
            return self.linear.sums(self.linear.excess(pooled) if excess is None else excess)
        if self.name == "nearest":
            return _nearest(pooled, self.bank.closeness.toxic)
        if self.name == "dense":
            projected: F64 = pooled.residual.astype(np.float64) @ self.bank.dense.astype(np.float64)
            return projected
        if self.name == "length":
            return -pooled.n_tokens.astype(np.float64)
        if self.name == "random":
            return np.array([int(hashlib.sha256(s.encode()).hexdigest()[:13], 16) / 16**13 for s in shas])
        raise BankError(f"scorer {self.name}: has no formula")

    @cached_property
    def scale(self) -> Scale:
        """Scores of the bank's reference rows."""
        shas = [f"reference-{i}" for i in range(len(self.bank.reference))]
        return Scale(np.sort(self.raw(self.bank.reference, shas)))

    def standard(self, pooled: Pooled, shas: Sequence[str]) -> F64:
        """(n,) standard scores of rows, against the reference rows."""
        return self.scale.standard(self.raw(pooled, shas))

    @cached_property
    def null(self) -> NullScales:
        """Twenty scores that know nothing: what the bank's score must beat.

        Of ridge: weights learnt from the same rows with their labels shuffled. Of all others: contrast scores of
        random banks of the same size.
        """
        if self.name == "ridge":
            score = Linear(self.bank.background, self.bank.shuffled.astype(np.float64), "log")
        else:
            score = contrast(self.bank.background, self.bank.random)
        return NullScales.of(score, self.bank.reference)

    def null_scores(self, pooled: Pooled) -> F64:
        """(n, 20) standard scores of rows under scores that know nothing."""
        return self.null.standard(self.null.linear.excess(pooled))

    @cached_property
    def shares(self) -> Shares | None:
        """What splits a score into features; None for the scorers that are no sums."""
        return None if self.linear is None else Shares.of(self.linear, self.bank.reference, self.scale.sd)

    @cached_property
    def topics(self) -> Linear:
        """What the bank's topics add to a row's standard score, but for a constant each."""
        return self.bank.topics.sums(self.bank.background)

    def topic_scores(self, standard: F64, excess: sp.csr_matrix) -> F64:
        """(n, topics) scores of rows with these standard scores (n,), see `topics`; `excess` is that of `topics`."""
        return self.leaning(standard, self.topics.sums(excess))

    def leaning(self, standard: F64, lean: F64) -> F64:
        """The same, with the sums (n, topics) of `topics`."""
        result: F64 = standard[:, None] + lean - self.bank.topics.offset
        return result


def _nearest(pooled: Pooled, cosine: F32) -> F64:
    out = np.zeros(len(pooled))
    for row in range(len(pooled)):
        span = slice(int(pooled.indptr[row]), int(pooled.indptr[row + 1]))
        values = pooled.values[span]
        top = np.argpartition(-values, NEAREST_K)[:NEAREST_K] if len(values) > NEAREST_K else slice(None)
        if len(values):
            out[row] = cosine[pooled.indices[span][top]].mean()
    return out
