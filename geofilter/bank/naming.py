"""What the words of texts say of features, and which bank of several is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geofilter.arrays import F32
from geofilter.bank.bank import Bank


@dataclass(frozen=True, slots=True, eq=False)
class Named:
    """What words say of d_sae features."""

    labels: Sequence[str]
    """words, see `build.words`; "" for a feature that has none of its own"""
    content: F32
    """(d_sae,) see `Bank.content`"""


def first_known(banks: Sequence[Bank], named: Named | None = None) -> Named:
    """What is said of each feature by the first bank whose texts it fires in, of those that read most features first.

    Args:
        named: what is said of those that fire in no bank's texts; what the first bank says if None.
    """
    # Banks of earlier versions name tokens.
    asked = sorted((bank for bank in banks if bank.rate.any()), key=lambda bank: -int((bank.content < 1).sum()))
    last = named or Named((asked or banks)[0].labels, (asked or banks)[0].content)
    labels, content = list(last.labels), last.content
    for bank in reversed(asked):
        seen = (bank.content < 1) | np.array([label != "" for label in bank.labels])
        content = np.where(seen, bank.content, content)
        labels = [bank.labels[f] if known else labels[f] for f, known in enumerate(seen.tolist())]
    return Named(labels, content)
