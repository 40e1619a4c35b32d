"""A row's reason in a sentence."""

from __future__ import annotations

import pytest

from geofilter.run.reasons import reason, standing, times_said


def row(n: int, **more: object) -> dict[str, object]:
    features = [
        {"feature": i, "label": "bleach" if i else "", "share": 0.5, "times": 9.04, "toxic": False, "near": None}
        for i in range(n)
    ]
    return {"percentile": 0.997, "bank": "b", "topic": "advice", "top_features": features, "common": 0.1,
            "explained": 0.612, **more}  # fmt: skip


def test_a_reason_says_how_much_of_the_score_it_is_of():
    start = "scores above 99.7% of ordinary rows under b"
    assert reason(row(0)) == f"{start}; if harmful, most like its topic advice"
    assert reason(row(1, topic=None)) == (
        f"{start}; 61% of it from feature 0 (no words of its own, 9 times as strong as in ordinary chat) and tone and "
        "punctuation"
    )
    long = reason(row(5, common=-0.1, percentile=1.0))
    assert long.startswith("scores above all ordinary rows under b; ")
    assert long.endswith("bleach (feature 2, 9 times as strong as in ordinary chat) and 2 more features")
    assert reason(row(4, common=0.0)).endswith(" and one more feature")
    assert "more feature" not in reason(row(3))


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
