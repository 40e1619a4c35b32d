"""What a report says in words: the parts of the data, controls, groups."""

from __future__ import annotations

import numpy as np
import pytest

from geofilter.report.composition import Dimension
from geofilter.report.grouped import group_said
from geofilter.report.plain import overlap_said


def divided(*of: int) -> Dimension:
    return Dimension("key", "title", [str(i) for i in range(max(of) + 1)], np.array(of, np.uint8))


def test_the_same_division_under_other_names_is_known():
    rows = divided(0, 0, 1, 2, 2)
    assert rows.same_as(divided(2, 2, 0, 1, 1))
    assert not rows.same_as(divided(0, 0, 1, 2, 1))
    assert not rows.same_as(divided(0, 0, 1, 1, 1))
    assert not divided(0, 0, 1, 1, 1).same_as(rows)


@pytest.mark.parametrize(
    ("overlap", "chance", "said"),
    [
        (0.36, 0.25, "Length and format alone do not make this cut: at most, a cut of equal size by shortest removes"),
        (0.6, 0.25, "may go by length or format here, and not by harm: a cut of equal size by shortest removes 60%"),
        (0.92, 0.9, "alone do not make this cut"),
    ],
)
def test_the_controls_come_to_a_conclusion(overlap: float, chance: float, said: str):
    control = {"overlap_with_equal_cut_by": {"longest": 0.1, "shortest": overlap}, "removed_share": chance}
    assert said in overlap_said(control)


def test_a_group_is_called_by_words_and_a_kept_one_never_by_a_topic_of_harm():
    features = [{"feature": 1, "label": ""}, {"feature": 2, "label": "tax · sure"}]
    group = {"number": 8, "name": "", "rows": 3, "topic": "malice", "removed": False, "duplicates": 0, "sources": [],
             "features": features, "examples": [7]}  # fmt: skip
    assert group_said(group) == "group 8: tax · sure, 3 rows"
    assert group_said({**group, "features": []}) == "group 8: no words of its own, 3 rows"
    removed = {**group, "name": "a · b", "removed": True, "duplicates": 2}
    assert group_said(removed) == "group 8: a · b, 3 rows (if harmful: malice, 2 near-duplicates)"
