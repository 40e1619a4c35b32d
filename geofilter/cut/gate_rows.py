"""The highest of the rows that a gate has flagged, with the reason of each."""

from __future__ import annotations

import numpy as np

from geofilter.arrays import Bools, Positions
from geofilter.cut.cut import by_score
from geofilter.cut.gate_verdict import GateRow
from geofilter.cut.noted import UNLIKE
from geofilter.run.names import LINES
from geofilter.run.reasons import reason
from geofilter.run.store import Run
from geofilter.text import CELL, one_line, shorten

SHOWN = 10
"""rows that are named; also what GitHub shows of the annotations of a step"""


def highest(run: Run, wanted: Bools) -> list[GateRow]:
    """The highest of some scored rows, the highest score first, the earlier row first among equals.

    Args:
        wanted: (n,) which rows may be among them.

    Raises:
        RunError: the scores are missing or damaged.
    """
    places = _highest_places(run, wanted)
    columns = run.columns(["file", "line", "sha256", "score", "percentile"])
    file, line, sha256, score, percentile = (column.take(places) for column in columns.values())
    said, files = _reasons(run, places), [info["path"] for info in run.manifest["data"]]
    found: list[GateRow] = []
    for i, place in enumerate(places.tolist()):
        digest, bank, why = said[place]
        if digest != sha256[i].tobytes().hex():
            raise run.damaged(LINES)
        found.append(
            {
                "file": files[file[i]], "line": int(line[i]), "sha256": digest, "bank": bank,
                "percentile": float(percentile[i]), "score": float(score[i]), "reason": why,
            }
        )  # fmt: skip
    return found


def _highest_places(run: Run, wanted: Bools) -> Positions:
    """Their places among the scored rows; scores are read piece by piece, and no more are held than are named."""
    places, values = np.zeros(0, np.int64), np.zeros(0)
    for here, score in run.columns(["score"])["score"].pieces():
        at = np.flatnonzero(wanted[here])
        places, values = np.concatenate([places, at + here.start]), np.concatenate([values, score[at]])
        first = by_score(values)[:SHOWN]
        places, values = places[first], values[first]
    return places


def _reasons(run: Run, places: Positions) -> dict[int, tuple[str, str, str]]:
    """Of each row its hash, its bank and its reason, as they are stored."""
    try:
        return {
            place: (line["sha256"], str(line["bank"]), shorten(one_line(reason(line)), CELL))
            for place, line in run.score_lines(places)
        }
    except UNLIKE:
        raise run.damaged(LINES) from None
