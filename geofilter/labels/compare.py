"""Does a bank learnt from labels rank better than the scan's scores? Told by labelled rows that it was not learnt from.

Five folds by prompt, dealt out anew several times. Of each fold only its own rows are compared with one another, since
scores learnt from different rows have no zero in common; and both scores are held to the same pairs of rows. Labels
that are wrong pull both figures towards 0.5 and leave their order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geofilter.arrays import F64, Bools, Positions
from geofilter.bank.ridge import Ridge
from geofilter.bank.validate import usable_folds
from geofilter.stats import Interval, RankingStats, auroc_score_interval, draw_weights, interval

REPEATS = 10
"""times that the folds are dealt out, of few rows"""
MOST = 1000
"""rows compared at most: n x n numbers are made of them"""


@dataclass(frozen=True, slots=True)
class Compared:
    """Held-out AUROC of two scores on the same labelled rows, with 95 % bootstrap intervals."""

    learnt: float
    """by the bank learnt"""
    interval: Interval
    """of it"""
    scan: float
    """by the scan's own scores"""
    ahead: Interval
    """interval of the first less the second"""

    @property
    def better(self) -> bool:
        """Whether the bank learnt is estimated to rank better."""
        return self.learnt > self.scan

    @property
    def clear(self) -> bool:
        """Whether that is more than chance."""
        return self.ahead[0] > 0


def compared_rows(bad: Bools, seed: int) -> Positions:
    """Which of n labelled rows are compared, ascending: all, or `MOST` drawn, a tenth of each kind or more."""
    if len(bad) <= MOST:
        return np.arange(len(bad))
    rng = np.random.default_rng(seed)
    sides = [rng.permutation(np.flatnonzero(bad == side)) for side in (True, False)]
    few = [min(len(side), MOST // 10) for side in sides]
    n_bad = int(np.clip(MOST * len(sides[0]) // len(bad), few[0], MOST - few[1]))
    return np.sort(np.concatenate([sides[0][:n_bad], sides[1][: MOST - n_bad]]))


def compare(learner: Ridge, bad: Bools, groups: Sequence[str], scan: F64, seed: int = 0) -> Compared:
    """Cross-validate what would be learnt from n labelled rows beside the scores (n,) that the scan gave them.

    Args:
        groups: (n,) rows of one group are never split between learning and checking, and are drawn together.
    """
    weights = np.concatenate([np.ones((1, len(bad))), *draw_weights(groups, seed=seed)])
    labels = np.where(bad, 1.0, -1.0)
    wins, pairs = np.zeros((2, len(weights))), np.zeros(len(weights))
    for repeat in range(int(np.clip(MOST // len(bad), 1, REPEATS))):
        folds = usable_folds(groups, bad, seed + repeat)
        held = learner.held_out(labels, folds)
        for _, test in folds:
            drawn, is_bad = weights[:, test], bad[test]
            here = (drawn * is_bad).sum(1) * (drawn * ~is_bad).sum(1)
            pairs += here
            for i, score in enumerate((held, scan)):
                wins[i] += here * np.nan_to_num(RankingStats(score[test], is_bad).auroc(drawn))
    with np.errstate(invalid="ignore"):
        learnt, before = wins / pairs
    # The wider of two: a bootstrap draws prompts, and is too sure of few rows that are ranked well.
    by_draw, by_count = interval(learnt[1:]), auroc_score_interval(float(learnt[0]), int(bad.sum()), int((~bad).sum()))
    wider = min(by_draw[0], by_count[0]), max(by_draw[1], by_count[1])
    return Compared(float(learnt[0]), wider, float(before[0]), interval((learnt - before)[1:]))
