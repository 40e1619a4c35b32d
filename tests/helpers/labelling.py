"""What the tests of labels share."""

import json
from pathlib import Path

from helpers.command import geofilter, write_rows
from helpers.endpoint import row_of

N = 60

BAD = [i % 3 == 0 for i in range(N)]


def answer(i: int) -> str:
    return f"you fool, answer {i} ends, no and no" if BAD[i] else f"the sum of it is that answer {i} ends well"


def label(base: Path, *args: object):
    return geofilter("label", "run", *args, cwd=base)


def kept(base: Path) -> list[dict]:
    return [json.loads(x) for x in (base / "run" / "labels.jsonl").read_text("utf-8").splitlines()]


def fill(sheet: Path) -> list[dict]:
    """Label a sheet by what its rows say."""
    rows = [json.loads(x) for x in sheet.read_text("utf-8").splitlines()]
    for row in rows:
        assert row["label"] is None
        row["label"] = "bad" if "fool" in row["response"] else "good"
    write_rows(sheet, rows)
    return rows


# A judge


def by_content(_number: int, body: dict) -> str:
    return "5" if BAD[row_of(body)] else "95"
