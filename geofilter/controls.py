"""Controls a score must be set beside: a bag of words and a style model fitted on the same labelled rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from geofilter.arrays import F64, Bools
from geofilter.style import style_features


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
