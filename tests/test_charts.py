import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest
from helpers.evaluating import SVG

from geofilter.charts import LINE, Interval, Series, curves, intervals

# Pictures


def test_hostile_text_is_inert_in_a_picture():
    nasty = '</text><script>alert("1")</script>&\x00\x1b\ud800￾'
    drawn = [
        curves([Series(nasty, [(0, 0), (1, 1)]), Series("b", [(0, 0), (1, 0.5)])], nasty, nasty, nasty, note=nasty),
        intervals([Interval(nasty, 0.1, 0.0, 0.2)], nasty, nasty, description=nasty, note=nasty),
    ]
    for text in drawn:
        root = ElementTree.fromstring(text.encode("utf-8"))
        assert not list(root.iter(f"{SVG}script"))
        assert any("<script>" in (t.text or "") for t in root.iter(f"{SVG}title"))


def test_the_names_of_curves_do_not_overlap_and_stay_inside():
    series = [Series(f"series {i}", [(0, 0), (0.5, 0.9 + 0.001 * i)], "control") for i in range(9)]
    series.append(Series("low", [(0, 0), (0.5, 0.0)], "reference"))
    root = ElementTree.fromstring(curves(series, "x", "y", "t"))
    names = [t for t in root.iter(f"{SVG}text") if (t.get("class") or "").startswith("name")]
    heights = sorted(float(t.get("y")) for t in names)
    assert len(heights) == 10
    assert min(b - a for a, b in pairwise(heights)) >= LINE - 0.2
    assert 84 <= heights[0] <= heights[-1] <= 520
    # Each beside its curve's end, in the curves' order: the highest curve has the highest name.
    assert [t.text for t in sorted(names, key=lambda t: float(t.get("y")))] == [
        *(f"series {i}" for i in reversed(range(9))), "low",
    ]  # fmt: skip


def test_intervals_are_drawn_to_scale():
    rows = [Interval("a", 0.0, -1.0, 1.0), Interval("b", 0.5, 0.0, 1.0)]
    root = ElementTree.fromstring(intervals(rows, "x", "t", reference=0))
    dots = [float(c.get("cx")) for c in root.iter(f"{SVG}circle")]
    ranges = [p.get("d") for p in root.iter(f"{SVG}path") if p.get("class") == "range"]
    (low, high), (low_b, high_b) = ([float(v) for v in re.findall(r"[MH]([\d.]+)", d)] for d in ranges)
    assert dots[0] == pytest.approx((low + high) / 2, abs=0.2)
    assert dots[1] == pytest.approx((low_b + high_b) / 2, abs=0.2)
    assert high == high_b
    (line_at,) = [p for p in root.iter(f"{SVG}path") if p.get("class") == "series reference"]
    assert float(re.search(r"M([\d.]+)", line_at.get("d"))[1]) == pytest.approx(dots[0], abs=0.2)
    assert not [
        p
        for p in ElementTree.fromstring(intervals(rows, "x", "t", reference=None)).iter(f"{SVG}path")
        if p.get("class") == "series reference"
    ]
    texts = [t.text for t in root.iter(f"{SVG}text")]
    assert "0.50 [0.00, 1.00]" in texts
