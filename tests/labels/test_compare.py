"""Whether a bank learnt from labels is said to rank better than the scan's scores."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.command import write_rows
from helpers.labelling import label
from helpers.tiny import D_SAE, random_pooled

from geofilter.bank.background import Background
from geofilter.bank.ridge import Ridge
from geofilter.labels.compare import MOST, compare, compared_rows

N = 60
GROUPS = [str(i) for i in range(N)]


@pytest.fixture(scope="module")
def learner():
    pooled, dense = random_pooled(N, seed=4)
    return Ridge(pooled, Background.of(random_pooled(60, seed=2)[0], D_SAE)), dense


def test_a_score_that_knows_more_is_said_to_rank_better(learner):
    ridge, dense = learner
    told = dense @ np.random.default_rng(0).standard_normal(D_SAE)
    bad = told > np.quantile(told, 0.7)
    chance = np.random.default_rng(1).random(N)
    found = compare(ridge, bad, GROUPS, chance)
    assert found.better
    assert found.interval[0] <= found.learnt <= found.interval[1]
    assert found.ahead[0] <= found.learnt - found.scan <= found.ahead[1]
    found = compare(ridge, bad, GROUPS, told)
    assert found.scan == 1
    assert not found.better
    assert not found.clear


def test_labels_that_mean_nothing_come_to_one_half(learner):
    ridge, _ = learner
    found = [
        compare(ridge, np.random.default_rng(seed).permutation(N) < 20, GROUPS, np.zeros(N)).learnt
        for seed in range(12)
    ]
    assert abs(np.mean(found) - 0.5) < 0.06


def test_of_many_labels_some_of_each_kind_are_compared():
    assert (compared_rows(np.arange(MOST) < 5, 0) == np.arange(MOST)).all()
    for n_bad in (5, 300, 2000, 2995):
        bad = np.arange(3000) < n_bad
        rows = compared_rows(bad, 0)
        assert len(np.unique(rows)) == len(rows) <= MOST
        assert bad[rows].sum() >= min(n_bad, MOST // 10)
        assert (~bad[rows]).sum() >= min(3000 - n_bad, MOST // 10)


def test_the_run_keeps_scores_that_rank_as_well_unless_told_otherwise(base: Path):
    scores = (base / "run" / "scores.jsonl").read_bytes()
    order = sorted((json.loads(line) for line in scores.splitlines()), key=lambda s: -s["score"])
    labels = [{"file": s["file"], "line": s["line"], "label": i < 20} for i, s in enumerate(order)]
    write_rows(base / "labels.jsonl", labels)
    done = label(base, "--from", "labels.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["applied"], result["better"], result["before"]) == (False, False, 1)
    assert not result["check"]["weak"]
    assert "the run keeps its scores. Label more rows, or use the bank anyway with --apply." in result["text"][-1]
    assert (base / "run" / "scores.jsonl").read_bytes() == scores
    done = label(base, "--from", "labels.jsonl", "--apply")
    assert done.returncode == 0, done.stderr
    assert "That is not clearly better than the scan's scores" in done.stderr
    assert "the run is scored with this bank now" in done.stderr
    done = label(base, "--from", "labels.jsonl")
    assert "the run keeps the scores of the bank learnt before; scan again for the scan's own" in done.stderr
    done = label(base, "--sheet", "s.jsonl", "--apply")
    assert done.returncode == 2
    assert "--apply: is for a bank learnt from labels" in done.stderr
