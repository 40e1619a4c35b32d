"""The space in which rows are compared with each other: what a row is about, how harmful it is, and of what kind.

    c = unit((r - m) B)           r: mean residual of the row; m: that of ordinary chat; B (d_in, k): the directions in
                                  which ordinary chat varies most (principal components)
    v = unit([c, HARM tanh(s / 2), TOPIC unit(l)])        s: standard score of the row under the bank's weights
                                                          l: its leans to the bank's topics, see `topics`

Rows are compared by the cosine of v. c alone, which no label goes into, is what a run keeps of every row.
docs/method.md has what else was tried, and how often the nearest labelled row has a row's label and topic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import F32, F64
from geofilter.bank.features import Pooled

F16 = npt.NDArray[np.float16]

WIDTH = 64
"""directions of c at most; there are not more than the model's width, nor than rows of ordinary chat"""
HARM, TOPIC = 0.6, 0.5
"""weights of score and topic beside c"""


def basis_of(reference: Pooled) -> F16:
    """B (d_in, k) of ordinary rows."""
    residual = reference.residual.astype(np.float64)
    _, _, directions = np.linalg.svd(residual - residual.mean(0), full_matrices=False)
    basis: F16 = np.ascontiguousarray(directions[:WIDTH].T).astype(np.float16)
    return basis


@dataclass(frozen=True, slots=True, eq=False)
class Content:
    """Puts rows into the space of what they are about."""

    centre: F32
    """(d_in,) m"""
    basis: F16
    """(d_in, k) B"""

    @classmethod
    def about(cls, reference: Pooled, basis: F16 | None = None) -> Content:
        """As ordinary rows have it.

        Args:
            basis: where it is known.
        """
        centre: F32 = reference.residual.astype(np.float32).mean(0)
        return cls(centre, basis_of(reference) if basis is None else basis)

    def of(self, pooled: Pooled) -> F32:
        """c (n, k) of rows; 0 for one that is just like the mean of ordinary chat."""
        return _unit((pooled.residual.astype(np.float32) - self.centre) @ self.basis.astype(np.float32))


def placed(content: F32, standard: F64, lean: F64) -> F32:
    """v (n, k + 1 + topics) of rows.

    Args:
        content: (n, k) c.
        standard: (n,) s.
        lean: (n, topics) l.
    """
    return _unit(np.hstack([content, HARM * np.tanh(standard / 2)[:, None], TOPIC * _unit(lean)]))


def _unit(rows: npt.NDArray[Any]) -> F32:
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: F32 = np.divide(rows, length, out=np.zeros(rows.shape), where=length > 0).astype(np.float32)
    return unit
