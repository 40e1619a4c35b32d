import itertools
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from helpers.tiny import D_SAE, directions, random_pooled

from geofilter.bank.background import Background
from geofilter.bank.geometry import closeness, max_cosine, random_weights
from geofilter.bank.linear import Linear, Scale, Shares, contrast
from geofilter.bank.scorer import Scorer
from geofilter.errors import BankError


def test_faiss_equals_a_torch_matmul():
    all_directions, some = directions(500, 24), directions(37, 24, seed=1)
    cosine, which = max_cosine(all_directions, some)
    expected = (torch.from_numpy(all_directions) @ torch.from_numpy(some).T).max(dim=1)
    np.testing.assert_allclose(cosine, expected.values.numpy(), atol=1e-6)
    assert which.tolist() == expected.indices.tolist()


@pytest.mark.parametrize("damage", [np.nan, np.inf])
def test_faiss_never_sees_a_number_that_is_none(damage: float):
    broken = directions(5)
    broken[2, 0] = damage
    with pytest.raises(BankError, match="not a number"):
        max_cosine(directions(), broken)


def test_faiss_never_sees_a_direction_without_length():
    broken = directions(5)
    broken[2] = 0
    with pytest.raises(BankError, match="zero norm"):
        max_cosine(directions(), broken)


def test_the_score_by_hand():
    # Two features on the axes; the bank's toxic feature is 0, its aligned one is 1.
    table = closeness(np.eye(2, dtype=np.float32), np.array([0], np.int32), np.array([1], np.int32))
    assert table.contrast.tolist() == [1.0, -1.0]
    background = Background(np.array([1.0, 2.0], np.float32), np.array([1.0, 1.0], np.float32))
    pooled, _ = random_pooled(1, 2, 2)
    pooled = type(pooled)(
        np.array([0, 2]), np.array([0, 1], np.int32), np.array([3.4, 0.8], np.float32),
        np.array([1], np.int32), np.zeros((1, 2), np.float16),
    )  # fmt: skip
    # z = (3.4 - 1) / 1.2 = 2 and (0.8 - 2) / 1.2 = -1; s = (2 * 1 + -1 * -1) / 2 = 1.5
    assert contrast(background, table.contrast).scores(pooled) == pytest.approx([1.5])


@pytest.mark.parametrize(
    ("live", "sizes", "drawn"),
    [([5, 1, 2, 6, 3], (3, 2), (3, 2)), ([5, 1, 2, 6, 3], (1, 2), (1, 2)), ([1, 2, 6], (2, 4), (1, 2)),
     ([1, 6], (1, 9), (1, 1))],
)  # fmt: skip
def test_a_random_bank_has_live_features_as_many_on_each_side_as_the_bank(live: list[int], sizes, drawn):
    # Features on the axes: each is close to itself alone.
    weights = random_weights(np.eye(8, dtype=np.float32), np.array(live, np.int32), *sizes, seed=0, n=40)
    assert weights.shape == (8, 40)
    assert [((w == 1).sum(), (w == -1).sum()) for w in weights.T] == [drawn] * 40
    assert np.flatnonzero(np.abs(weights).sum(1)).tolist() == sorted(live)


def test_the_sparse_score_equals_the_dense_formula(bank):
    pooled, dense = random_pooled(30, seed=5)
    b = bank.background
    z = np.clip((dense - b.mean) / (b.sd + 0.2 * np.median(b.sd[b.sd > 0])), -3, 6)
    expected = (z * bank.closeness.contrast).mean(1)
    np.testing.assert_allclose(contrast(b, bank.closeness.contrast).scores(pooled), expected, atol=1e-6)
    several = contrast(b, bank.random).scores(pooled)
    np.testing.assert_allclose(several, (z[:, :, None] * bank.random).mean(1), atol=1e-6)


def test_background_counts_absent_features_as_zero():
    pooled, dense = random_pooled(50, seed=6)
    background = Background.of(pooled, D_SAE)
    np.testing.assert_allclose(background.mean, dense.mean(0), atol=1e-6)
    np.testing.assert_allclose(background.sd, dense.std(0), atol=1e-5)


@pytest.mark.parametrize("scorer", ["ridge", "contrast"])
def test_a_row_s_score_does_not_depend_on_its_neighbours(bank, scorer: str):
    pooled, _ = random_pooled(30, seed=7)
    score = Scorer(bank, scorer).linear
    together = score.scores(pooled)
    for i in (0, 11, 29):
        assert score.scores(pooled.take(np.array([i])))[0] == together[i]


@pytest.mark.parametrize("scorer", ["ridge", "contrast", "activation"])
def test_shares_sum_to_the_score(bank, scorer: str):
    pooled, _ = random_pooled(10, seed=8)
    shares = Scorer(bank, scorer).shares
    _, active = shares.active(shares.linear.excess(pooled))
    standard = Scorer(bank, scorer).standard(pooled, [""] * 10)
    for i in range(10):
        span = slice(pooled.indptr[i], pooled.indptr[i + 1])
        total = active[span].sum() + shares.absent(pooled.indices[span])
        assert total == pytest.approx(standard[i], abs=1e-6)
    found = shares.carried(shares.linear.excess(pooled), standard, np.zeros(D_SAE, bool))
    assert ((found.share > 0) == (found.at >= 0)).all()
    assert (np.diff(found.share, axis=1) <= 0).all()
    np.testing.assert_array_equal(found.share[found.at >= 0], active[found.at[found.at >= 0]])
    for i, (low, high) in enumerate(itertools.pairwise(pooled.indptr.tolist())):
        assert found.share[i, 0] == max(active[low:high])


def test_as_many_features_are_named_as_carry_half_with_the_common_ones():
    """Ten features of one share each and one that speaks against the row; the ninth and tenth are common."""
    weights = np.array([1.0] * 10 + [-4.0])
    usual = Background(np.zeros(11, np.float32), np.ones(11, np.float32))
    shares = Shares(Linear(usual, weights, "z"), np.zeros(11), 1.0)
    row, common = sp.csr_matrix(np.ones((1, 11))), np.arange(11) // 2 == 4

    def carried(score: float) -> tuple[int, float, float]:
        found = shares.carried(row, np.array([score]), common)
        assert not {8, 9, 10} & set(found.at[0].tolist())
        return int((found.at >= 0).sum()), float(found.common[0]), float(found.explained[0])

    assert carried(6.0) == (3, 2.0, pytest.approx(5 / 6))  # three at least
    assert carried(13.0) == (5, 2.0, pytest.approx(7 / 13))
    assert carried(100.0) == (8, 2.0, pytest.approx(0.1))  # eight at most
    assert carried(2.0) == (3, 2.0, 1.0)  # without them the row would score less than ordinary chat
    assert carried(-1.0) == (3, 2.0, 0.0)


def test_a_feature_is_near_a_toxic_one_other_than_itself_from_the_floor_on():
    directions = np.array([[1, 0, 0], [0.8, 0.6, 0], [0, 0, 1], [0.29, 0, 0.957]], np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    found = closeness(directions, np.array([0, 1], np.int32), np.array([2], np.int32))
    assert found.near(0, 0) == (1, pytest.approx(0.8))  # itself at cosine 1 is not said
    assert found.near(1, 1) == (0, pytest.approx(0.8))
    assert found.near(2, None) is None
    assert found.near(3, None) is None  # 0.29
    earlier = replace(found, other=found.other[:0], other_cosine=found.other_cosine[:0])
    assert earlier.near(0, 0) is None  # not known
    alone = closeness(directions, np.array([0], np.int32), np.array([2], np.int32))
    assert alone.near(0, 0) is None
    assert alone.near(1, None) == (0, pytest.approx(0.8))


def test_nearest_is_the_mean_cosine_of_the_strongest_features(bank):
    pooled, dense = random_pooled(4, seed=9)
    expected = [bank.closeness.toxic[np.argsort(-row)[: min(32, (row > 0).sum())]].mean() for row in dense]
    np.testing.assert_allclose(Scorer(bank, "nearest").raw(pooled, [""] * 4), expected, atol=1e-6)


def test_activation_is_the_difference_of_mean_z(bank):
    pooled, dense = random_pooled(4, seed=10)
    z = np.clip((dense - bank.background.mean) / bank.background.scale, -3, 6)
    expected = z[:, bank.toxic].mean(1) - z[:, bank.aligned].mean(1)
    np.testing.assert_allclose(Scorer(bank, "activation").raw(pooled, [""] * 4), expected, atol=1e-5)


def test_the_control_scorers(bank):
    pooled, _ = random_pooled(3, seed=11)
    assert Scorer(bank, "length").raw(pooled, [""] * 3).tolist() == [-5, -5, -5]
    shas = ["a", "b", "a"]
    random = Scorer(bank, "random").raw(pooled, shas)
    assert random[0] == random[2] != random[1]
    assert all(0 <= r < 1 for r in random)
    dense = Scorer(bank, "dense").raw(pooled, shas)
    np.testing.assert_allclose(dense, pooled.residual.astype(np.float64) @ bank.dense, atol=1e-6)
    with pytest.raises(BankError) as caught:
        Scorer(bank, "magic").raw(pooled, shas)
    assert str(caught.value) == (
        "scorer magic: unknown; use ridge, contrast, nearest, activation, dense, length, random"
    )


def test_percentile_is_the_share_of_reference_rows_scoring_lower():
    scale = Scale(np.array([1.0, 2.0, 2.0, 4.0]))
    assert scale.percentile(np.array([0.0, 2.0, 3.0, 9.0])).tolist() == [0.0, 0.25, 0.75, 1.0]
    assert scale.standard(np.array([2.25]))[0] == 0
