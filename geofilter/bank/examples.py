"""Labelled rows that a bank is learnt from, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from geofilter.arrays import F32, Bools, Positions
from geofilter.bank.about import BankMeta
from geofilter.bank.features import Pooled
from geofilter.config import BANK_SIZE

if TYPE_CHECKING:
    from geofilter.bank.bank import Bank


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """n labelled rows."""

    pooled: Pooled
    bad: Bools
    """(n,) True for the toxic side"""
    groups: Sequence[str] = ()
    """(n,) rows of one group, such as the answers to one question, are never split between learning and checking"""
    texts: Sequence[str] = ()
    """(n,) responses, for the controls"""
    kinds: Sequence[str] = ()
    """(n,) topics, "" for none; empty where no row has one. Those with enough rows are told apart, see `topics`"""

    def take(self, rows: Positions) -> Examples:
        """Take the given rows, in that order."""
        groups, texts, kinds = ([of[i] for i in rows] if of else () for of in (self.groups, self.texts, self.kinds))
        return Examples(self.pooled.take(rows), self.bad[rows], groups, texts, kinds)


@dataclass(frozen=True, slots=True, eq=False)
class LearnOptions:
    """How a bank is learnt, and what it says of itself."""

    size: int = BANK_SIZE
    """toxic features, and aligned ones, that it names; an eighth of all at most"""
    centred: bool = False
    """rows are compared with those of their group only, so that what the group is about drops out"""
    priors: Sequence[Bank] = ()
    """banks of the same target whose weights this one may build on, see `ridge`"""
    labels: Sequence[str] = ()
    """(d_sae,) words for every feature"""
    rate: F32 | None = None
    """(d_sae,) see `Bank.rate`; None where it is not known"""
    content: F32 | None = None
    """(d_sae,) see `Bank.content`; None where it is not known"""
    meta: BankMeta = field(default_factory=lambda: BankMeta())
    seed: int = 0
    """of shuffled labels and random banks"""

    @property
    def prior_weights(self) -> F32 | None:
        """(d_sae, m) weights of the priors; None without any."""
        return np.column_stack([p.weights for p in self.priors]) if self.priors else None
