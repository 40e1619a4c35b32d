"""What the tests of evaluations share."""

import json
from pathlib import Path

import numpy as np

from geofilter.labels.labelled_rows import Labelled

SVG = "{http://www.w3.org/2000/svg}"


def rows_of(bad: np.ndarray, groups: list[str] | None = None) -> Labelled:
    n = len(bad)
    return Labelled(np.arange(n), bad, groups or [str(i) for i in range(n)], ["x"] * n, frozenset(), {})


KIND = ("--labels", "meta.kind=bad")


def line(result: dict, name: str) -> dict:
    (found,) = [x for x in result["lines"] if x["name"] == name]
    return found


def truth(folder: Path, run: str = "r") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Score, label and position of the labelled scored rows, read without the code under test."""
    scores, bad, position = [], [], []
    for i, text in enumerate((folder / run / "scores.jsonl").read_text("utf-8").splitlines()):
        detail = json.loads(text)
        row = json.loads((folder / detail["file"]).read_text("utf-8").splitlines()[detail["line"] - 1])
        if "meta" in row:
            scores.append(detail["score"])
            bad.append(row["meta"]["kind"] == "bad")
            position.append(i)
    return np.array(scores), np.array(bad), np.array(position)


def error_of(done) -> str:
    return done.stderr.splitlines()[-1].removeprefix("geofilter: error: ")
