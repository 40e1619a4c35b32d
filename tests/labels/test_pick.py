"""Which rows are shown to be labelled."""

import numpy as np
import scipy.sparse as sp

from geofilter.labels.pick import pick_rows


def features(n: int, seed: int = 0) -> sp.csr_matrix:
    return sp.random(n, 30, 0.4, "csr", random_state=seed)


def picked(n: int, standard: np.ndarray, x: sp.csr_matrix, taken=(), seed: int = 0):
    names = [f"b{i}" for i in range(standard.shape[1])]
    return pick_rows(n, standard, names, lambda rows: x[rows], taken, seed=seed)


def test_every_row_is_chosen_once_and_none_that_is_taken():
    standard = np.random.default_rng(0).normal(size=(50, 2))
    got = picked(60, standard, features(50), taken=[3, 7])
    assert sorted(p.position for p in got) == [i for i in range(50) if i not in (3, 7)]


def test_rows_left_out_are_not_chosen_and_teach_no_likeness():
    standard = np.random.default_rng(0).normal(size=(30, 1))
    got = pick_rows(30, standard, ["b"], lambda rows: features(30)[rows], [1], [2, 3])
    assert sorted(p.position for p in got) == [0, *range(4, 30)]


def test_the_same_seed_chooses_the_same_rows_and_another_others():
    standard = np.random.default_rng(0).normal(size=(500, 2))
    x = features(500)
    one, again, other = (picked(20, standard, x, seed=s) for s in (0, 0, 1))
    assert one == again
    assert {p.position for p in one} != {p.position for p in other}


def test_a_row_s_reason_is_true_of_it():
    standard = np.random.default_rng(0).normal(size=(400, 2))
    rank = standard.argsort(0).argsort(0) / 400
    got = picked(24, standard, features(400))
    assert [p.why for p in got[:3]] == ["near a cut under b0", "at random", "high under b0"]
    assert [p.why for p in got].count("at random") == 12
    assert {p.why for p in got} == {"at random", *(f"{k} under b{b}" for k in ("near a cut", "high") for b in (0, 1))}
    for pick in got:
        if pick.why.startswith("high under"):
            assert rank[pick.position, int(pick.why[-1])] >= 0.85
        if pick.why.startswith("near a cut"):
            assert 0.7 <= rank[pick.position, int(pick.why[-1])] <= 0.9


def test_rows_like_those_taken_before_are_passed_over():
    # Half of the rows are all the same, half are like no other.
    x = sp.vstack([sp.csr_matrix(np.tile(np.eye(1, 80), (40, 1))), sp.csr_matrix(np.eye(40, 80, 40))], format="csr")
    got = picked(12, np.random.default_rng(0).normal(size=(80, 1)), x, taken=[0])
    chosen = [p.position for p in got if p.why != "at random"]
    assert sum(position < 40 for position in chosen) <= 1  # of 6; without it about 3


def test_a_row_at_random_is_any_row_as_likely_as_another():
    # Rows like those taken before too, and those with high scores no more often than others.
    x = sp.vstack([sp.csr_matrix(np.tile(np.eye(1, 80), (40, 1))), sp.csr_matrix(np.eye(40, 80, 40))], format="csr")
    scores = np.arange(80.0)[:, None]
    drawn = [p.position for s in range(60) for p in picked(8, scores, x, taken=[0], seed=s) if p.why == "at random"]
    assert len(drawn) == 240
    assert len(set(drawn)) > 70
    assert 0.4 < np.mean(np.array(drawn) < 40) < 0.6
