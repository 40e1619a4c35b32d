"""What a seed bank is worth: held-out AUROC beside random banks, a bag of words and a style model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from geofilter.arrays import F32, F64, Bools, Positions
from geofilter.bank.about import BankCheck
from geofilter.bank.background import Background
from geofilter.bank.examples import Examples, LearnOptions
from geofilter.bank.features import Pooled
from geofilter.bank.geometry import N_RANDOM_BANKS, closeness, effect_sizes, strongest
from geofilter.bank.linear import Linear, contrast
from geofilter.bank.ridge import Ridge, shuffled
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


def usable_folds(groups: Sequence[str], bad: Bools, seed: int) -> list[tuple[Positions, Positions]]:
    """Folds by group; by row where the groups leave a side without held-out rows (one prompt for all of it)."""
    folds = group_folds(groups, bad, N_FOLDS, seed)
    held = np.concatenate([np.zeros(0, np.int64), *(test for _, test in folds)])
    if bad[held].any() and (~bad[held]).any():
        return folds
    return group_folds([str(i) for i in range(len(groups))], bad, N_FOLDS, seed)


def validate(directions: F32, examples: Examples, reference: Pooled, options: LearnOptions) -> BankCheck:
    """Cross-validate a seed bank: five folds by group, the bank learnt on four and scoring the fifth.

    The bank counts as weak when the 95 % interval of its AUROC reaches 0.5, or when one of 20 banks learnt from
    shuffled labels separates the same rows as well (in either direction). Beside it: the contrast score, and a bag of
    words and a style model fitted on the same folds.

    Args:
        directions: (d_sae, d_in) unit decoder directions.
        reference: ordinary rows, see `learn.fit`.
    """
    bad, rows = examples.bad, examples.pooled
    held, null = _held_out(directions, examples, reference, options)
    seen = np.isfinite(held["bank"])
    figure = auroc(held["bank"][seen], bad[seen])
    groups = [g for g, k in zip(examples.groups, seen, strict=True) if k]
    low, high = auroc_interval(held["bank"][seen], bad[seen], groups)
    random_aurocs = [auroc(null[seen, j], bad[seen]) for j in range(N_RANDOM_BANKS)]
    best_random = max(max(a, 1 - a) for a in random_aurocs)
    return {
        "rows": {"bad": int(bad.sum()), "good": int((~bad).sum())},
        "auroc": round(figure, 4),
        "interval": [round(low, 4), round(high, 4)],
        "contrast": round(auroc(held["contrast"][seen], bad[seen]), 4),
        "bag_of_words": round(auroc(held["bag_of_words"][seen], bad[seen]), 4),
        "style": round(auroc(held["style"][seen], bad[seen]), 4),
        "shorter_is_worse": round(auroc(-rows.n_tokens.astype(np.float64), bad), 4),
        "random_banks": {"mean": round(float(np.mean(random_aurocs)), 4), "best_either_way": round(best_random, 4)},
        "weak": not (low > 0.5 and figure > best_random),
    }


def _held_out(
    directions: F32, examples: Examples, reference: Pooled, options: LearnOptions
) -> tuple[dict[str, F64], F64]:
    """Scores (n,) of each row by what was learnt without it, nan where no fold holds it; and (n, 20) by the null."""
    d_sae, bad = len(directions), examples.bad
    background = Background.of(reference, d_sae)
    held = {name: np.full(len(bad), np.nan) for name in ("bank", "contrast", "bag_of_words", "style")}
    null = np.full((len(bad), N_RANDOM_BANKS), np.nan)
    # The same shuffled labels in every fold, so that each has one score per row.
    random = shuffled(bad, examples.groups if options.centred else None, N_RANDOM_BANKS, options.seed)
    for train, test in usable_folds(examples.groups, bad, options.seed):
        seen, other = examples.take(train), examples.take(test)
        toxic, aligned = strongest(effect_sizes(seen.pooled, seen.bad, d_sae), min(options.size, d_sae // 8))
        table = closeness(directions, toxic, aligned).contrast
        held["contrast"][test] = contrast(background, table).scores(other.pooled)
        within = seen.groups if options.centred else None
        own = Ridge(seen.pooled, background, within, options.prior_weights, reference)
        held["bank"][test] = _scores(own, np.where(seen.bad, 1.0, -1.0), background, other.pooled)
        null[test] = _scores(Ridge(seen.pooled, background, within), random[train], background, other.pooled)
        held["bag_of_words"][test] = bag_of_words(seen.texts, seen.bad)(other.texts)
        held["style"][test] = style_model(seen.texts, seen.bad)(other.texts)
    return held, null


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
