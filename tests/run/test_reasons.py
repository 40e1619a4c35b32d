"""A row's reason in a sentence."""

from __future__ import annotations

import pytest

from geofilter.run.reasons import reason, standing, times_said


def row(n: int, **more: object) -> dict[str, object]:
    features = [
        {"feature": i, "label": "bleach" if i else "", "share": 0.5, "times": 9.04, "toxic": False, "near": None}
        for i in range(n)
    ]
    # Under its bank; the row's own score may be lower by a handicap.
    under = {"score": more.pop("score", 2.0), "percentile": more.pop("percentile", 0.997)}
    return {"score": 1.0, "percentile": 0.9, "bank": "b", "banks": {"a": {"score": 9.0, "percentile": 1.0}, "b": under},
            "topic": "advice", "top_features": features, "common": 0.2, "explained": 0.612, **more}  # fmt: skip


def test_a_reason_says_how_much_of_the_score_it_is_of():
    start = "scores above 99.7% of ordinary rows under b"
    assert reason(row(0)) == f"{start}; if harmful, most like its topic advice"
    assert reason(row(2, topic=None)) == (
        f"{start}; 61% of it from feature 0 (no words of its own, 9 times as strong as in ordinary chat), bleach "
        "(feature 1, 9 times) and tone and punctuation (10%)"
    )
    long = reason(row(5, common=-0.1, percentile=1.0))
    assert long.startswith("scores above all ordinary rows under b; ")
    assert long.endswith(", bleach (feature 2, 9 times) and 2 more features")
    assert reason(row(4, common=0.0)).endswith(" and one more feature")
    assert "more feature" not in reason(row(3))


def test_what_most_of_a_score_is_from_comes_first():
    assert "; 61% of it from tone and punctuation (40%), feature 0 (" in reason(row(2, common=0.8))
    assert "; 100% of it from tone and punctuation (100%) and feature 0 (" in reason(row(1, common=9.0, explained=1.0))
    assert "tone and punctuation (100%)" in reason(row(1, score=-1.0, explained=0.0))


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (None, "never in ordinary chat"),
        (0.4, "weaker than in ordinary chat"),
        (1.26, "1.3 times as strong as in ordinary chat"),
        (1234.5, "1,234 times as strong as in ordinary chat"),
    ],
)
def test_how_strong_a_feature_is(times: float | None, said: str):
    assert times_said(times) == said


def test_what_is_no_toxic_feature_and_near_none_is_charged_to_none():
    near = {"feature": 7, "label": "", "cosine": 0.314}
    assert standing({"toxic": False, "near": None}) == ""
    assert standing({"toxic": True, "near": None}) == "yes"
    assert standing({"toxic": True, "near": near}) == "yes, near 7 (no words of its own), cosine 0.31"
