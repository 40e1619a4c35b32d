"""Which rows of a cut its page draws at random, so that their marks say how often the cut is right."""

from __future__ import annotations

import numpy as np

from geofilter.cut.cut import Selection
from geofilter.run.labelled import learnt_from
from geofilter.run.names import SCORES

DRAWN = {"removed": 200, "kept": 100}
"""rows drawn at random from each side"""


def drawn_ranks(selection: Selection, listed: int) -> dict[str, list[int]]:
    """0-based ranks of rows drawn at random from those that a cut removes, and from those that it keeps, in order.

    They are the same whenever these scores are cut so. Rows that a bank was learnt from are not among them.

    Args:
        listed: ranks that a page lists; where a side has others, none can be drawn from it.
    """
    order = selection.order()
    free = ~learnt_from(selection.run)[order]
    gone = selection.removed[order]
    scores = selection.run.manifest["files"][SCORES]["sha256"]
    found = {}
    for side, here in (("removed", gone & free), ("kept", ~gone & free)):
        rng = np.random.default_rng([int(scores[:12], 16), int(side == "kept")])
        ranks = np.flatnonzero(here)
        whole = not here[listed:].any()
        found[side] = rng.choice(ranks, min(DRAWN[side], len(ranks)), replace=False).tolist() if whole else []
    return found
