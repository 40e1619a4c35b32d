"""The rows that a report shows: which ones, their texts and why they score as they do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.cut.cut import Selection
from geofilter.cut.outputs import reason
from geofilter.run.rows import reread
from geofilter.text import shorten

TOP = 100
"""highest rows that are shown"""
AROUND = 15
"""rows shown on either side of the cut"""
SHOWN = 250
"""rows shown in all; what the top and the cut leave is spread evenly over the upper half of the ranks"""


def shown_ranks(n: int, n_removed: int) -> list[int]:
    """0-based ranks of the rows to show, ascending.

    Args:
        n: scored rows.
        n_removed: of them, taken from the top.
    """
    if n <= SHOWN:
        return list(range(n))
    ranks = {*range(TOP), *range(max(0, n_removed - AROUND), min(n, n_removed + AROUND))}
    others = [rank for rank in range(max(n // 2, SHOWN)) if rank not in ranks]
    spread = np.linspace(0, len(others) - 1, SHOWN - len(ranks)).astype(int)
    return sorted(ranks | {others[i] for i in spread})


def read(selection: Selection, ranks: Sequence[int], position: npt.NDArray[np.int64]) -> list[dict[str, Any]]:
    """Some scored rows, with their texts.

    Args:
        ranks: 0-based.
        position: (ranks,) which of the scored rows each is.

    Raises:
        InputError, RunError: see `rows.reread`.
    """
    details = dict(selection.run.score_lines(position))
    texts = reread(details.values(), selection.run.fields)
    out = []
    for rank, i in zip(ranks, position.tolist(), strict=True):
        d = details[i]
        row = texts[d["file"], d["line"]]
        out.append(
            {
                **{
                    k: d[k]
                    for k in (
                        *("file", "line", "sha256", "score", "percentile", "bank", "topic", "topics", "n_tokens"),
                        "top_features",
                    )
                },
                "rank": rank + 1,
                "removed": bool(selection.removed[i]),
                "reason": reason(d),
                "prompt": shorten(row.prompt),
                "response": shorten(row.response),
            }
        )
    return out
