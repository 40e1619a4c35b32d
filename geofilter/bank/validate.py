"""Controls a score must be set beside: a bag of words and a style model fitted on the same labelled rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from geofilter.arrays import F32, F64, Bools, Positions
from geofilter.bank import geometry, ridge
from geofilter.bank.background import Background
from geofilter.bank.features import Pooled
from geofilter.bank.geometry import N_RANDOM_BANKS, effect_sizes, strongest
from geofilter.bank.linear import Linear, contrast
from geofilter.bank.ridge import Ridge
from geofilter.rows.style import style_features
from geofilter.stats import auroc, auroc_interval

N_FOLDS = 5


def group_folds(groups: Sequence[str], bad: Bools, n: int, seed: int) -> list[tuple[Positions, Positions]]:
    """Train and test positions of up to n folds; the rows of one group stay together.

    Groups with both sides and groups with one are dealt out apart, so that each fold gets of each kind.
    """
    sides: dict[str, set[bool]] = {}
    for g, b in zip(groups, bad, strict=True):
        sides.setdefault(g, set()).add(bool(b))
    rng = np.random.default_rng(seed)
    fold_of: dict[str, int] = {}
    for kind in ({True, False}, {True}, {False}):
        members = sorted(g for g, s in sides.items() if s == kind)
        for i, position in enumerate(rng.permutation(len(members))):
            fold_of[members[position]] = i % n
    fold = np.array([fold_of[g] for g in groups])
    pairs = [(np.flatnonzero(fold != k), np.flatnonzero(fold == k)) for k in range(n)]
    return [(train, test) for train, test in pairs if len(test) and bad[train].any() and (~bad[train]).any()]


def _usable_folds(groups: Sequence[str], bad: Bools, seed: int) -> list[tuple[Positions, Positions]]:
    """Folds by group; by row where the groups leave a side without held-out rows (one prompt for all of it)."""
    folds = group_folds(groups, bad, N_FOLDS, seed)
    held = np.concatenate([np.zeros(0, np.int64), *(test for _, test in folds)])
    if bad[held].any() and (~bad[held]).any():
        return folds
    return group_folds([str(i) for i in range(len(groups))], bad, N_FOLDS, seed)


def validate(
    directions: F32,
    seeds: Pooled,
    bad: Bools,
    groups: Sequence[str],
    texts: Sequence[str],
    reference: Pooled,
    size: int,
    seed: int = 0,
    centred: bool = False,
    priors: F32 | None = None,
) -> dict[str, Any]:
    """Cross-validate a seed bank: five folds by group, the bank learnt on four and scoring the fifth.

    The bank counts as weak when the 95 % interval of its AUROC reaches 0.5, or when one of 20 banks learnt from
    shuffled labels separates the same rows as well (in either direction).

    Args:
        groups: rows with the same prompt share one.
        texts: responses, for the bag of words and the style model fitted on the same folds.
        size: toxic and aligned features of the contrast score, which is checked too.
        centred: rows are compared within their group only.
        priors: see `learn.fit`.
    """
    background = Background.of(reference, len(directions))
    names = ("bank", "contrast", "bag_of_words", "style")
    held: dict[str, F64] = {name: np.full(len(seeds), np.nan) for name in names}
    null = np.full((len(seeds), N_RANDOM_BANKS), np.nan)
    # The same shuffled labels in every fold, so that each has one score per row.
    random = ridge.shuffled(bad, groups if centred else None, N_RANDOM_BANKS, seed)
    for train, test in _usable_folds(groups, bad, seed):
        toxic, aligned = strongest(effect_sizes(seeds.take(train), bad[train], len(directions)), size)
        table = geometry.closeness(directions, toxic, aligned).contrast
        held["contrast"][test] = contrast(background, table).scores(seeds.take(test))
        within = [groups[i] for i in train] if centred else None
        own = Ridge(seeds.take(train), background, within, priors, reference)
        held["bank"][test] = _scores(own, np.where(bad[train], 1.0, -1.0), background, seeds.take(test))
        null[test] = _scores(Ridge(seeds.take(train), background, within), random[train], background, seeds.take(test))
        fitted, shown = [texts[i] for i in train], [texts[i] for i in test]
        held["bag_of_words"][test] = bag_of_words(fitted, bad[train])(shown)
        held["style"][test] = style_model(fitted, bad[train])(shown)
    seen = np.isfinite(held["bank"])
    figure = auroc(held["bank"][seen], bad[seen])
    low, high = auroc_interval(held["bank"][seen], bad[seen], [g for g, k in zip(groups, seen, strict=True) if k])
    random_aurocs = [auroc(null[seen, j], bad[seen]) for j in range(N_RANDOM_BANKS)]
    best_random = max(max(a, 1 - a) for a in random_aurocs)
    shorter = auroc(-seeds.n_tokens.astype(np.float64), bad)
    return {
        "rows": {"bad": int(bad.sum()), "good": int((~bad).sum())},
        "auroc": round(figure, 4),
        "interval": [round(low, 4), round(high, 4)],
        "contrast": round(auroc(held["contrast"][seen], bad[seen]), 4),
        "bag_of_words": round(auroc(held["bag_of_words"][seen], bad[seen]), 4),
        "style": round(auroc(held["style"][seen], bad[seen]), 4),
        "shorter_is_worse": round(shorter, 4),
        "random_banks": {"mean": round(float(np.mean(random_aurocs)), 4), "best_either_way": round(best_random, 4)},
        "weak": not (low > 0.5 and figure > best_random),
    }


def _scores(learner: Ridge, labels: F64, background: Background, rows: Pooled) -> F64:
    return Linear(background, learner.weights(labels).astype(np.float64), "log").scores(rows)


def bag_of_words(texts: Sequence[str], bad: Bools) -> Callable[[Sequence[str]], F64]:
    """Fit TF-IDF (words and word pairs) and logistic regression; return the score function (log odds)."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    # Single letters and code marks are tokens too, so that the control is fair on code.
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"\w+|[^\w\s]")
    model = make_pipeline(vectorizer, LogisticRegression(C=10.0, max_iter=1000))
    model.fit(list(texts), bad)
    return lambda rows: np.asarray(model.decision_function(list(rows)), dtype=np.float64)


def style_model(texts: Sequence[str], bad: Bools) -> Callable[[Sequence[str]], F64]:
    """Fit logistic regression on length and format features only; return the score function (log odds)."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit(np.stack([style_features(t) for t in texts]), bad)
    return lambda rows: np.asarray(
        model.decision_function(np.stack([style_features(t) for t in rows])), dtype=np.float64
    )
