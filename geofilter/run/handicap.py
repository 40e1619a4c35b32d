"""What a bank's score of a row is lowered by beside other banks: each knows best the shape of rows it was learnt from.

A bank of bare texts says little of answers to a prompt, and the other way round: where a bank of the row's own shape is
there, one of the other shape has to be ahead by a standard deviation of ordinary chat before its score counts
(docs/method.md compares it with other rules).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geofilter.arrays import F64, I32, Bools
from geofilter.bank.bank import Bank
from geofilter.rows.keys import SHAPES

HANDICAP = 1.0
"""standard deviations of ordinary chat"""
ROW_SHAPE = ("shape", "n_turns")
"""the arrays of a run that `bare` goes by"""
BARE = (SHAPES.index("text"), SHAPES.index("segments"))
"""shapes of rows that have no prompt"""


def bare(shape: I32, n_turns: I32) -> Bools:
    """(n,) which rows have no prompt, by their shapes and turns."""
    result: Bools = np.isin(shape, BARE) | (n_turns == 1)
    return result


def handicaps(banks: Sequence[Bank], bare: Bools) -> F64:
    """(banks, n) what the standard scores of rows are lowered by; 0 where no bank is of the row's own shape.

    Args:
        bare: (n,) the row has no prompt.
    """
    out = np.zeros((len(banks), len(bare)))
    for of, bank in zip(out, banks, strict=True):
        if bank.of_answers is not None:
            of[bare == bank.of_answers] = HANDICAP
    result: F64 = out - out.min(0)
    return result


def largest(banks: Sequence[Bank], standard: F64, bare: Bools) -> F64:
    """(n,) scores of rows with the standard scores (banks, n).

    Args:
        bare: (n,) the row has no prompt.
    """
    result: F64 = (standard - handicaps(banks, bare)).max(0)
    return result
