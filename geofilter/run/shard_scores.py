"""What the banks make of the rows of a shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from geofilter.arrays import F64, I32, Bools, Positions, among
from geofilter.bank.about import Like
from geofilter.bank.features import Pooled
from geofilter.bank.linear import Carried, Linear
from geofilter.bank.neighbours import Neighbours
from geofilter.bank.scorer import Scorer
from geofilter.config import CONTROLS
from geofilter.errors import BankError
from geofilter.run.handicap import bare, handicaps
from geofilter.run.shard import Shard

if TYPE_CHECKING:
    import scipy.sparse as sp


class Excess:
    """`Linear.excess` of a shard's rows, computed once for all scores and banks that see them the same way."""

    def __init__(self, pooled: Pooled) -> None:
        self._pooled = pooled
        self._last: tuple[object, Positions, sp.csr_matrix] | None = None
        """what was asked for last of some rows"""
        self._known: dict[tuple[str, bytes, bytes], sp.csr_matrix] = {}

    def of(self, linear: Linear, rows: Positions | None = None) -> sp.csr_matrix:
        """(n, d_sae) of the rows under a score; of some of them, ascending."""
        key = (linear.of, linear.background.mean.tobytes(), linear.background.sd.tobytes())
        if key not in self._known:
            self._known[key] = linear.excess(self._pooled)
        if rows is None or len(rows) == len(self._pooled):
            return self._known[key]
        if self._last is None or self._last[0] != key or self._last[1] is not rows:
            self._last = key, rows, self._known[key][rows]
        return self._last[2]


@dataclass(frozen=True, slots=True, eq=False)
class Under:
    """The m rows of a shard whose scores a bank gives."""

    rows: Positions
    """(m,) of the shard, ascending"""
    carried: Carried | None
    """what carries their scores; its places are those of `Shard.pooled`. None where the scorer has no feature shares"""
    topics: F64
    """(m, topics) scores of the bank's topics, rounded; (m, 0) where it has none"""
    like: list[Like]
    """(m,) the labelled rows of the bank that each is most like; empty where there are none"""


@dataclass(frozen=True, slots=True, eq=False)
class ShardScores:
    """What the banks make of the n rows of a shard."""

    shard: Shard
    shas: list[str]
    excess: Excess
    standard: F64
    """(banks, n) standard scores"""
    percentile: F64
    """(banks, n)"""
    handicap: F64
    """(banks, n) what the standard scores are lowered by"""
    best: Positions
    """(n,) the bank whose standard score is the largest, once each is lowered by its handicap"""
    score: F64
    """(n,) that score"""
    place: F64
    """(n,) its percentile under that bank"""
    under: list[Under]
    """(banks,) its rows"""
    learnt: Bools
    """(n, banks) the bank was learnt from the row, or from one that reads the same"""
    rejected: F64 | None = None
    """(n,) the score that each pair's rejected answer has by itself, as `score` is that of the row; 0 of a row that
    is no pair. None of a run that has not read them"""

    def topic(self, scorers: Sequence[Scorer], names: Sequence[str]) -> I32:
        """(n,) position in `names` of the closest topic of each row's bank; -1 under a bank without topics."""
        out = np.full(len(self.best), -1, np.int32)
        for scorer, under in zip(scorers, self.under, strict=True):
            if under.topics.size:
                places = np.array([names.index(name) for name in scorer.bank.topics.names], np.int32)
                out[under.rows] = places[under.topics.argmax(1)]
        return out


def neighbours_of(scorers: Sequence[Scorer]) -> list[Neighbours | None]:
    """What finds the labelled rows that a row is like, for each bank; None for one that keeps none, and for a scorer
    that knows no bank.
    """
    return [None if s.bank.rows is None or s.name in CONTROLS else Neighbours(s.bank) for s in scorers]


def score_shard(shard: Shard, scorers: Sequence[Scorer], neighbours: Sequence[Neighbours | None]) -> ShardScores:
    """Score the rows of a shard under every bank.

    Args:
        neighbours: of the banks, see `neighbours_of`.

    Raises:
        BankError: a bank gives a score that is no number.
    """
    shas, excess = shard.shas(), Excess(shard.pooled)
    raw = [s.raw(shard.pooled, shas, None if s.linear is None else excess.of(s.linear)) for s in scorers]
    standard = np.stack([s.scale.standard(r) for s, r in zip(scorers, raw, strict=True)])
    percentile = np.stack([s.scale.percentile(r) for s, r in zip(scorers, raw, strict=True)])
    for scorer, scores in zip(scorers, standard, strict=True):
        _check(scorer, scores)
    handicap = handicaps([s.bank for s in scorers], bare(shard.shape, shard.n_turns))
    best = (standard - handicap).argmax(0)
    under = [
        _under(scorer, standard[b], np.flatnonzero(best == b), shard, excess, neighbours[b])
        for b, scorer in enumerate(scorers)
    ]
    learnt = np.stack([among(shard.content, s.bank.learnt_from) for s in scorers], axis=1)
    score, place = counted(scorers, standard, percentile, handicap, best)
    rejected = _rejected(shard, shas, scorers, handicap)
    return ShardScores(shard, shas, excess, standard, percentile, handicap, best, score, place, under, learnt, rejected)


def _rejected(shard: Shard, shas: Sequence[str], scorers: Sequence[Scorer], handicap: F64) -> F64 | None:
    """See `ShardScores.rejected`.

    Args:
        handicap: (banks, n) of the rows, whose shape their rejected answers have.

    Raises:
        BankError: a bank gives a score that is no number.
    """
    pooled, paired = shard.rejected_pooled, shard.paired
    if pooled is None or paired is None:
        return None
    rows, excess = np.flatnonzero(paired), Excess(pooled)
    others = [f"{shas[i]} rejected" for i in rows.tolist()]
    raw = [s.raw(pooled, others, None if s.linear is None else excess.of(s.linear)) for s in scorers]
    standard = np.stack([s.scale.standard(r) for s, r in zip(scorers, raw, strict=True)])
    for scorer, scores in zip(scorers, standard, strict=True):
        _check(scorer, scores)
    out = np.zeros(len(shas))
    out[rows] = (standard - handicap[:, rows]).max(0)
    return out


def counted(
    scorers: Sequence[Scorer], standard: F64, percentile: F64, handicap: F64, bank: Positions
) -> tuple[F64, F64]:
    """(n,) scores, each lowered by the handicap of the row's bank (n,), and their percentiles under it."""
    each = np.arange(len(bank))
    lowered = handicap[bank, each]
    score, place = standard[bank, each] - lowered, percentile[bank, each]
    for b, scorer in enumerate(scorers):
        rows = np.flatnonzero((bank == b) & (lowered > 0))
        place[rows] = scorer.scale.percentile_of(score[rows])
    return score, place


def _under(
    scorer: Scorer, standard: F64, rows: Positions, shard: Shard, excess: Excess, near: Neighbours | None
) -> Under:
    """The rows of a bank.

    Args:
        standard: (n,) standard scores of all rows of the shard under it.
    """
    carried, pooled = None, shard.pooled
    if scorer.shares is not None:
        of_rows = excess.of(scorer.shares.linear, rows)
        carried = scorer.shares.carried(of_rows, standard[rows], scorer.bank.common)
        moved = (pooled.indptr[rows] - of_rows.indptr[:-1])[:, None]
        carried = replace(carried, at=np.where(carried.at < 0, -1, carried.at + moved))
    topics, lean = np.zeros((len(rows), 0)), None
    if scorer.bank.topics.names:
        lean = scorer.topics.sums(excess.of(scorer.topics, rows))
        topics = np.round(scorer.leaning(standard[rows], lean), 4)
        _check(scorer, topics)
    like: list[Like] = [{} for _ in rows]
    if near is not None and len(rows):
        taken = pooled if len(rows) == len(pooled) else pooled.take(rows)
        like = near.like(taken, excess.of(scorer.topics, rows), shard.content[rows], lean)
    return Under(rows, carried, topics, like)


def _check(scorer: Scorer, scores: F64) -> None:
    if not np.isfinite(scores).all():
        raise BankError(f"bank {scorer.bank.name}: gives a row a score that is no number; build it again")
