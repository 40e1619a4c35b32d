"""The texts of removed rows as a page holds them."""

import base64
import json
import random
import zlib
from types import SimpleNamespace

from geofilter.report import texts
from geofilter.report.texts import Texts


def packed(responses: list[str]) -> tuple[Texts, list[list]]:
    held = Texts(len(responses))
    for rank, response in enumerate(responses):
        held.add(rank, "ab", SimpleNamespace(prompt="why?", response=response))
    data = held.packed()
    assert len(data) <= texts.PACKED
    return held, json.loads(zlib.decompress(data))


def test_texts_are_whole_where_there_is_room_and_say_where_not():
    held, rows = packed(["short", "word " * 1000, "a\x1b\u202eb"])
    assert rows[0] == [0, "ab", "why?", "short", True]
    assert rows[1][4] is False
    assert rows[1][3].endswith(" word…")
    assert len(rows[1][3]) <= held.chars == 2000
    assert rows[2][3] == "a\ufffd\ufffdb"
    assert held.shortened
    assert packed([])[1] == []


def test_texts_that_do_not_pack_are_shortened_until_they_fit(monkeypatch):
    monkeypatch.setattr(texts, "PACKED", 20_000)
    rng = random.Random(0)
    held, rows = packed([base64.b64encode(rng.randbytes(1200)).decode() for _ in range(60)])
    assert [row[0] for row in rows] == list(range(60))
    assert held.chars < 600
    assert all(row[4] is False and len(row[3]) <= held.chars for row in rows)
