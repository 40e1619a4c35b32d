"""What is behind the removed rows, summed up."""

from __future__ import annotations

from geofilter.report.behind import Tally
from geofilter.rows.records import parse_line

NEAR = {"feature": 7, "label": "c", "cosine": 0.5}


def named(feature: int, share: float, times: float | None = 2.0, **more: object) -> dict[str, object]:
    return {"feature": feature, "label": "a", "share": share, "times": times, "toxic": True, "near": NEAR, **more}


def line(*features: dict[str, object], explained: float = 0.5) -> dict[str, object]:
    return {"bank": "one", "top_features": list(features), "common": 0.0, "explained": explained}


def test_the_rows_own_features_are_summed_up():
    """A share that was rounded to nothing is counted, and one that ordinary chat never has has no times."""
    tally = Tally()
    tally.sums.add(line(named(1, 0.0, None), explained=0.2))
    tally.sums.add(line(named(2, 0.5, 4.0), named(1, 0.0, None), explained=0.5))
    tally.sums.add(line(named(2, 1.5, 8.0), explained=0.9))
    first, second = tally.largest("page", {})
    assert (first["feature"], first["share"], first["rows"], first["times"]) == (2, 2.0, 2, 7.0)
    assert (first["toxic"], first["near"], first["link"]) == (True, NEAR, "https://www.neuronpedia.org/page/2")
    assert (second["feature"], second["rows"], second["times"], second["examples"]) == (1, 2, None, [])
    assert tally.explained == {"median": 0.5, "half": 0.6667}
    assert Tally().explained is None


def test_the_words_are_those_of_the_removed_rows_that_stand_out_there():
    tally = Tally()
    texts = ["you mix the bleach and the ammonia", "the bleach is the best", "read the book and the letter"]
    for number, text in enumerate(texts, 1):
        row = parse_line(b'{"text": "%s"}' % text.encode(), "f", number)
        removed = number < 3
        at = [text.find("bleach") + 1, text.find("bleach") + 3] if removed else [5, 7]
        of_row = line(named(1, 1.0, at=at), named(2, 1.0, at=[text.index("the"), text.index("the") + 3]))
        if removed:
            tally.sums.add(of_row)
        tally.see(of_row, row, removed)
    bleach, the = tally.largest(None, {})
    assert bleach["words"] == ["bleach"]
    assert the["words"] == []  # it says nothing


def test_without_token_shares_no_words_are_said():
    tally = Tally()
    tally.sums.add(line(named(1, 1.0)))
    tally.see(line(named(1, 1.0)), parse_line(b'{"text": "bleach"}', "f", 1), True)
    assert tally.largest(None, {})[0]["words"] == []
