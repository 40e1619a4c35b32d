import numpy as np
import pytest
from helpers.tiny import D_SAE, random_pooled

from geofilter.bank.background import Background
from geofilter.bank.ridge import PENALTY, PENALTY_OF_GROUPS, PRIOR, Ridge, shuffled


@pytest.fixture(scope="module")
def rows():
    pooled, dense = random_pooled(40, seed=1)
    return pooled, dense, np.arange(40) % 2 == 0


@pytest.fixture(scope="module")
def reference():
    return random_pooled(60, seed=2)


def log_values(dense: np.ndarray, background: Background) -> np.ndarray:
    sd = background.sd + 0.2 * np.median(background.sd[background.sd > 0])
    return np.log1p(3 * dense / sd)


def centred(x: np.ndarray, groups: list[str]) -> np.ndarray:
    out = x.astype(float)
    for g in set(groups):
        here = np.array([k == g for k in groups])
        out[here] -= out[here].mean(0)
    return out


def closed_form(x: np.ndarray, y: np.ndarray, share: float = PENALTY) -> np.ndarray:
    """The textbook solution in the features: (X'X + penalty I)^-1 X'y."""
    penalty = share * (x**2).sum() / len(x)
    return np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ y)


@pytest.mark.parametrize("grouped", [False, True])
def test_weights_are_the_textbook_solution(rows, reference, grouped: bool):
    pooled, dense, bad = rows
    background = Background.of(reference[0], D_SAE)
    groups = [str(i // 4) if grouped else "" for i in range(40)]
    labels = np.where(bad, 1.0, -1.0)
    expected = closed_form(
        centred(log_values(dense, background), groups),
        centred(labels, groups),
        PENALTY_OF_GROUPS if grouped else PENALTY,
    )
    found = Ridge(pooled, background, groups if grouped else None).weights(labels)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_many_labellings_at_once_equal_one_by_one(rows, reference):
    pooled, _, bad = rows
    learner = Ridge(pooled, Background.of(reference[0], D_SAE))
    labels = shuffled(bad, None, 3, seed=0)
    together = learner.weights(labels)
    assert together.shape == (D_SAE, 3)
    for j in range(3):
        np.testing.assert_array_equal(together[:, j], learner.weights(labels[:, j]))


def test_priors_are_columns_of_their_own(rows, reference):
    pooled, dense, bad = rows
    background = Background.of(reference[0], D_SAE)
    priors = np.random.default_rng(3).standard_normal((D_SAE, 2)).astype(np.float32)
    x = log_values(dense, background)
    spread = (centred(x, [""] * 40) ** 2).sum() / 40
    scale = np.sqrt(PRIOR * spread) / (log_values(reference[1], background) @ priors).std(0)
    both = centred(np.column_stack([x, x @ (priors * scale)]), [""] * 40)
    labels = np.where(bad, 1.0, -1.0)
    solved = closed_form(both, labels)
    expected = solved[:D_SAE] + (priors * scale) @ solved[D_SAE:]
    found = Ridge(pooled, background, None, priors, reference[0]).weights(labels)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_held_out_scores_are_those_of_weights_learnt_without_the_fold(rows, reference):
    pooled, dense, bad = rows
    background = Background.of(reference[0], D_SAE)
    labels = np.where(bad, 1.0, -1.0)
    train, test = np.arange(0, 28), np.arange(28, 36)
    found = Ridge(pooled, background).held_out(labels, [(train, test)])
    expected = log_values(dense, background)[test] @ Ridge(pooled.take(train), background).weights(labels[train])
    np.testing.assert_allclose(found[test], expected, atol=1e-4 * np.abs(expected).max())
    assert np.isnan(np.delete(found, test)).all()


def test_a_good_prior_shows_with_few_labels(reference):
    """Rows whose label lies along a known direction: ten of them rank the others better with it than without."""
    from geofilter.bank.linear import Linear
    from geofilter.stats import auroc

    background = Background.of(reference[0], D_SAE)
    pooled, dense = random_pooled(300, seed=4)
    direction = np.random.default_rng(5).standard_normal(D_SAE)
    truth = log_values(dense, background) @ direction
    bad = truth > np.median(truth)
    few, rest = np.arange(20), np.arange(20, 300)
    found = []
    for prior in (None, direction[:, None].astype(np.float32)):
        learner = Ridge(pooled.take(few), background, None, prior, reference[0])
        weights = learner.weights(np.where(bad[few], 1.0, -1.0)).astype(np.float64)
        found.append(auroc(Linear(background, weights, "log").scores(pooled.take(rest)), bad[rest]))
    assert found[1] > found[0] + 0.05


def test_a_group_s_own_level_says_nothing(rows, reference):
    """With groups as centres, a label that is the same for the whole group teaches nothing."""
    pooled, _, _ = rows
    learner = Ridge(pooled, Background.of(reference[0], D_SAE), [str(i // 4) for i in range(40)])
    same = np.where(np.arange(40) // 4 % 2 == 0, 1.0, -1.0)
    np.testing.assert_allclose(learner.weights(same), 0, atol=1e-12)


def test_shuffled_labels_keep_each_group_s_count():
    bad = np.random.default_rng(0).random(60) < 0.3
    groups = [str(i % 7) for i in range(60)]
    labels = shuffled(bad, groups, 20, seed=1)
    assert set(np.unique(labels)) == {-1.0, 1.0}
    for g in set(groups):
        here = np.array([k == g for k in groups])
        assert ((labels[here] > 0).sum(0) == bad[here].sum()).all()
    assert len({tuple(column) for column in labels.T}) > 15
    assert ((shuffled(bad, None, 5, seed=1) > 0).sum(0) == bad.sum()).all()
