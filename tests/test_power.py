import numpy as np
import pytest
from conftest import random_pooled
from test_geometry import bank  # noqa: F401 (fixture)

from geofilter.bank import Bank
from geofilter.metrics import auroc, auroc_interval, precision_at, ranks, spearman
from geofilter.power import assess, headline, tail
from geofilter.style import STYLE, style_features


def verdict(bank: Bank, standard: np.ndarray, style: np.ndarray) -> dict:  # noqa: F811
    pooled, _ = random_pooled(len(standard), seed=20)
    return assess(bank, standard, bank.null("ridge", pooled), style)


def test_tail_is_the_mean_of_the_top_tenth():
    assert tail(np.arange(100.0)) == pytest.approx(94.5)
    assert tail(np.array([1.0, 2.0])) == 2.0


def test_a_high_tail_that_follows_nothing_is_a_reaction(bank: Bank):  # noqa: F811
    rng = np.random.default_rng(0)
    standard = np.concatenate([rng.normal(size=180), rng.normal(9, 1, 20)])
    found = verdict(bank, standard, rng.normal(size=(200, len(STYLE))).astype(np.float32))
    assert found["demonstrated"] is True
    assert found["stands_out"] is True
    assert headline([found]).startswith("b reacts to this data: its highest scores (tail")
    assert headline([found]).endswith("run: geofilter bank build --bad BAD --good GOOD")


def test_scores_like_a_random_bank_s_have_no_power(bank: Bank):  # noqa: F811
    rng = np.random.default_rng(1)
    found = verdict(bank, rng.normal(size=200) * 0.1, rng.normal(size=(200, len(STYLE))).astype(np.float32))
    assert found["demonstrated"] is False
    assert "do not stand out from 20 random banks" in found["text"]
    assert headline([found]).startswith("NO DEMONSTRATED POWER. b has no demonstrated power on this data:")


def test_scores_that_follow_length_have_no_power(bank: Bank):  # noqa: F811
    rng = np.random.default_rng(2)
    style = rng.normal(size=(200, len(STYLE))).astype(np.float32)
    found = verdict(bank, 9 * style[:, STYLE.index("length")].astype(float), style)
    assert found["demonstrated"] is False
    assert "its scores follow length (rank correlation +1.00)" in found["text"]


def test_small_statistics_by_hand():
    assert ranks(np.array([3.0, 1.0, 3.0])).tolist() == [2.5, 1.0, 2.5]
    bad = np.array([True, False, True, False])
    assert auroc(np.array([4.0, 1.0, 2.0, 2.0]), bad) == pytest.approx(3.5 / 4)
    assert np.isnan(auroc(np.array([1.0]), np.array([True])))
    assert precision_at(np.array([4.0, 1.0, 2.0, 3.0]), bad, 0.5) == 0.5
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])) == pytest.approx(-1)
    assert spearman(np.array([1.0, 1.0]), np.array([1.0, 2.0])) == 0
    low, high = auroc_interval(np.arange(40.0), np.arange(40) >= 20)
    assert low == high == 1.0
    assert style_features("- a 1\n- B")[STYLE.index("bullets")] == 1.0
