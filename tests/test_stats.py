from statistics import NormalDist

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from geofilter.stats import (
    RankingStats,
    Stats,
    auroc,
    auroc_score_interval,
    cluster_bootstrap,
    difference_interval,
    draw_weights,
    interval,
    share_interval,
)

# Ranking statistics and the bootstrap


def test_the_figures_of_a_ranking_worked_by_hand():
    ranking = RankingStats(np.array([4.0, 3.0, 2.0, 1.0]), np.array([True, False, True, False]))
    at = ranking.stats(np.ones((1, 4)), [0.25, 0.5])
    assert at.auroc[0] == pytest.approx(3 / 4)  # of four pairs one is the wrong way round
    assert at.auprc[0] == pytest.approx((1 / 1 + 2 / 3) / 2)
    assert at.removed.tolist() == [[1, 2]]
    assert at.precision.tolist() == [[1.0, 0.5]]
    assert at.recall.tolist() == [[0.5, 0.5]]
    assert at.by_chance.tolist() == [[0.5, 1.0]]
    assert ranking.recall_curve([0, 0.25, 0.5, 0.75, 1]).tolist() == [0, 0.5, 0.5, 1, 1]


def test_weighted_figures_are_those_of_the_drawn_rows_ties_included():
    rng = np.random.default_rng(1)
    score, bad = rng.integers(0, 12, 80).astype(float), rng.random(80) < 0.3
    groups = [str(g) for g in rng.integers(0, 30, 80)]
    drawn = list(cluster_bootstrap(groups, 25, seed=5))
    weights = np.concatenate(list(draw_weights(groups, 25, seed=5)))
    got = RankingStats(score, bad).stats(weights, [0.1, 0.5])
    for i, rows in enumerate(drawn):
        assert got.auroc[i] == pytest.approx(roc_auc_score(bad[rows], score[rows]))
        assert got.auprc[i] == pytest.approx(average_precision_score(bad[rows], score[rows]))
        rows = np.sort(rows)  # equal scores leave in the order of the data
        for j, fraction in enumerate((0.1, 0.5)):
            gone = np.argsort(-score[rows], kind="stable")[: round(fraction * len(rows))]
            assert got.removed[i, j] == len(gone)
            assert got.bad_removed[i, j] == bad[rows][gone].sum()


def test_a_draw_without_one_kind_of_row_has_no_figures_and_is_passed_over():
    ranking = RankingStats(np.array([3.0, 2.0, 1.0]), np.array([True, False, False]))
    at = ranking.stats(np.array([[1.0, 1, 1], [0, 2, 1], [3, 0, 0]]), [0.5])
    assert at.auroc.tolist()[0] == 1
    assert np.isnan(at.auroc[1:]).all()
    assert np.isnan(at.auprc[1:]).all()
    assert interval(at.auroc) == (1.0, 1.0)
    assert np.isnan(interval([np.nan])).all()


def test_whole_groups_are_drawn_and_as_many_as_there_are():
    groups = ["a", "b", "a", "c", "b", "a", "d"]
    counts = np.array([np.bincount(d, minlength=7) for d in cluster_bootstrap(groups, 200, seed=0)])
    assert (counts[:, 0] == counts[:, 2]).all()
    assert (counts[:, 0] == counts[:, 5]).all()
    assert (counts[:, 1] == counts[:, 4]).all()
    assert (counts[:, [0, 1, 3, 6]].sum(1) == 4).all()
    assert len({tuple(c) for c in counts.tolist()}) > 20
    again = np.array([np.bincount(d, minlength=7) for d in cluster_bootstrap(groups, 200, seed=0)])
    assert (again == counts).all()


def test_the_clustered_interval_is_wider_where_rows_are_repeated():
    rng = np.random.default_rng(2)
    once, kind = rng.normal(size=60), np.arange(60) < 30
    score, bad = np.repeat(once + kind, 6), np.repeat(kind, 6)

    def width(groups: list[str]) -> float:
        parts = [RankingStats(score, bad).stats(w, [0.5]) for w in draw_weights(groups, 400, seed=0)]
        low, high = interval(Stats.concat(parts).auroc)
        return high - low

    clustered = width([str(i // 6) for i in range(360)])
    naive = width([str(i) for i in range(360)])
    # Six copies of a row are one row: the honest interval is wider by about the root of six.
    assert 1.9 < clustered / naive < 3.1


def test_intervals_of_shares_are_those_of_the_literature():
    # Newcombe, Statistics in Medicine 17 (1998): table I of one share (p. 861), table II of a difference (p. 876).
    assert share_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert share_interval(0, 20) == pytest.approx((0, 0.1611), abs=5e-5)
    assert difference_interval(56, 70, 48, 80) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    assert difference_interval(10, 10, 0, 10) == pytest.approx((0.6075, 1.0), abs=5e-5)
    assert share_interval(0, 0) == (0, 1)
    assert difference_interval(1, 2, 0, 0) == (-1, 1)


def test_the_interval_of_an_auroc_holds_the_true_one_also_where_few_rows_are_ranked_well():
    rng = np.random.default_rng(0)
    n_bad, n_good, apart = 8, 30, 2.0
    truth = NormalDist().cdf(apart / 2**0.5)
    bad = np.arange(n_bad + n_good) < n_bad
    held = [auroc_score_interval(auroc(rng.standard_normal(len(bad)) + apart * bad, bad), 8, 30) for _ in range(400)]
    assert 0.93 <= np.mean([low <= truth <= high for low, high in held]) <= 0.99
    assert auroc_score_interval(1.0, 10, 30) == pytest.approx((0.867, 1), abs=2e-3)
    low, high = auroc_score_interval(0.8, 20, 40)
    assert (low + high) / 2 < 0.8  # further from the end
