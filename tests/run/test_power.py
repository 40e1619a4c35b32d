from dataclasses import replace

import numpy as np
import pytest
from helpers.tiny import random_pooled
from scipy.stats import kurtosis, skew

from geofilter.bank.bank import Bank
from geofilter.bank.scorer import Scorer
from geofilter.rows.style import STYLE, style_features
from geofilter.run.power import assess, bimodality, chance, headline, standing_out, tail
from geofilter.stats import auroc, auroc_interval, ranks, spearman

EVALUATION = {"auroc": 0.6, "interval": [0.4, 0.8], "bag_of_words": 0.5}


def verdict(bank: Bank, standard: np.ndarray, style: np.ndarray) -> dict:
    pooled, _ = random_pooled(len(standard), seed=20)
    return assess(bank, standard, Scorer(bank, "ridge").null_scores(pooled), style)


def test_tail_is_the_mean_of_the_top_tenth():
    assert tail(np.arange(100.0)) == pytest.approx(94.5)
    assert tail(np.array([1.0, 2.0])) == 2.0


def noise(n: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, len(STYLE))).astype(np.float32)


def two_groups() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.concatenate([rng.normal(size=160), rng.normal(9, 1, 40)])


def test_two_groups_far_apart_are_a_reaction(bank: Bank):
    found = verdict(bank, two_groups(), noise(200, 0))
    assert (found["verdict"], found["demonstrated"]) == ("reacts", True)
    assert found["chance"] >= 0.8
    assert headline([found]).startswith(
        "b reacts to this data (chance 0.99 that its ranking means something here): its"
    )
    assert headline([found]).endswith("label some of these rows: geofilter label.")


def test_scores_below_a_random_bank_s_have_no_power(bank: Bank):
    found = verdict(bank, np.random.default_rng(1).normal(size=200) * 0.1, noise(200, 1))
    assert (found["verdict"], found["demonstrated"]) == ("no power", False)
    assert found["chance"] <= 0.2
    assert headline([found]).startswith("NO DEMONSTRATED POWER. b has no demonstrated power on this data (chance 0.")


def test_scores_that_follow_length_are_no_reaction(bank: Bank):
    style, standard = noise(200, 2), two_groups()
    style[:, STYLE.index("length")] = standard
    found = verdict(bank, standard, style)
    assert (found["verdict"], found["demonstrated"]) == ("unclear", False)
    assert found["chance"] >= 0.8
    assert "its scores follow length (rank correlation +1.00)" in found["text"]
    assert headline([found]).startswith("POWER UNCLEAR. b: unclear whether it has power on this data (")


def test_scores_that_follow_the_loss_are_no_reaction(bank: Bank):
    pooled, _ = random_pooled(200, seed=20)
    null, standard = Scorer(bank, "ridge").null_scores(pooled), two_groups()
    loss = np.random.default_rng(5).random((200, 2)).astype(np.float32)
    apart = assess(bank, standard, null, noise(200, 2), loss)
    assert apart["verdict"] == "reacts"
    assert abs(apart["follows"]["loss per token"]) < 0.5
    loss[:, 1] = 100 - standard
    loss[:20, 1] = -1  # not known, and not taken for a loss
    found = assess(bank, standard, null, noise(200, 2), loss)
    assert found["verdict"] == "unclear"
    assert found["follows"]["loss per token, no prompt"] == -1
    said = "its ranking follows how ordinary the wording is (rank correlation -1.00 with the loss per token, no prompt)"
    assert said in found["text"]
    assert "loss per token" not in assess(bank, standard, null, noise(200, 2), loss[:, :0])["follows"]


def test_few_rows_say_nothing(bank: Bank):
    found = verdict(bank, two_groups()[::5], noise(40, 0))
    assert (found["verdict"], found["demonstrated"]) == ("too few rows", False)
    assert headline([found]).startswith(
        "TOO FEW ROWS. b: too few rows to say whether it has power on this data (40 of at least 50): its highest scores"
    )
    assert headline([found]).endswith("A verdict needs more rows: scan at least 50.")
    assert verdict(bank, two_groups()[::4], noise(50, 0))["verdict"] != "too few rows"


def test_a_bank_whose_own_check_failed_is_believed_less(bank: Bank):
    standard = np.random.default_rng(1).normal(size=200)
    found = verdict(bank, standard, noise(200, 0))
    weak = verdict(replace(bank, meta={"evaluation": {**EVALUATION, "weak": True}}), standard, noise(200, 0))
    assert weak["chance"] < found["chance"]
    assert "its own held-out check did not beat random banks" in weak["text"]


def test_the_best_verdict_leads_the_headline(bank: Bank):
    good = verdict(bank, two_groups(), noise(200, 0))
    bad = verdict(bank, np.random.default_rng(1).normal(size=200) * 0.1, noise(200, 1))
    assert headline([bad, good]).index(good["text"]) < headline([bad, good]).index(bad["text"])


def test_statistics_of_the_verdict_by_hand():
    assert bimodality(np.array([0.0, 1.0, 0.0, 1.0])) == pytest.approx(1.0)  # two points
    assert bimodality(np.linspace(0, 1, 100_001)) == pytest.approx(5 / 9, abs=1e-4)  # uniform
    assert bimodality(np.random.default_rng(0).normal(size=200_000)) == pytest.approx(1 / 3, abs=0.01)
    assert bimodality(np.ones(5)) == 0
    scores = np.random.default_rng(1).gamma(2, size=300) - 4
    assert bimodality(scores) == (skew(scores) ** 2 + 1) / kurtosis(scores, fisher=False)
    assert standing_out(3.0, [1.0, 2.0, 0.0, 1.0]) == pytest.approx(2 / np.sqrt(0.5))
    assert standing_out(3.0, [1.0, 1.0]) == 0
    assert chance(1, 0.36, 1, False) > chance(0, 0.36, 1, False) > chance(0, 0.34, 1, False) > chance(0, 0.34, 1, True)
    assert chance(1, 0.36, 2, False) > chance(1, 0.36, 1, False)
    assert chance(0, 0.36, 1, False) == pytest.approx(1 / (1 + np.exp(0.56 - 1.80 * 0.36)))
    assert chance(0, 0.36, 0, False) == 0.01


def test_small_statistics_by_hand():
    assert ranks(np.array([3.0, 1.0, 3.0])).tolist() == [2.5, 1.0, 2.5]
    bad = np.array([True, False, True, False])
    assert auroc(np.array([4.0, 1.0, 2.0, 2.0]), bad) == pytest.approx(3.5 / 4)
    assert np.isnan(auroc(np.array([1.0]), np.array([True])))
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])) == pytest.approx(-1)
    assert spearman(np.array([1.0, 1.0]), np.array([1.0, 2.0])) == 0
    low, high = auroc_interval(np.arange(40.0), np.arange(40) >= 20)
    assert low == high == 1.0
    assert style_features("- a 1\n- B")[STYLE.index("bullets")] == 1.0


@pytest.mark.parametrize("text", [
    "", "\n", "- a 1\n- B", "Σ ΟΔΟΣ ὁδός ΟΔΟΣ", "Straße STRASSE \N{CLOWN FACE} ²३ Éa\u2028éA\x85B",
    "if (x[1] == 2) { y_z = `#`; }", "half a pair \ud800 X", "".join(map(chr, range(0x250))),
])  # fmt: skip
def test_the_style_of_any_text_counted_character_by_character(text: str):
    words, lines, n = text.split(), text.count("\n") + 1, max(1, len(text))
    expected = {
        "length": np.log1p(len(text)), "lines": np.log(lines),
        "digits": sum(c.isdigit() for c in text) / n,
        "code": sum(c in "{}()[]=;<>_`\\|$#" for c in text) / n,
        "capitals": sum(c.isupper() for c in text) / n,
        "punctuation": sum(c in ".,;:!?'\"-" for c in text) / n,
        "word length": sum(map(len, words)) / max(1, len(words)),
        "variety": len({w.lower() for w in words}) / max(1, len(words)),
    }  # fmt: skip
    found = dict(zip(STYLE, style_features(text).tolist(), strict=True))
    assert {name: found[name] for name in expected} == {k: float(np.float32(v)) for k, v in expected.items()}
