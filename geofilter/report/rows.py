"""What a report needs of the rows, gathered while they are written: those it shows, and the features behind all."""

from __future__ import annotations

import numpy as np

from geofilter.arrays import Positions
from geofilter.cut.cut import Selection
from geofilter.groups.groups import Groups
from geofilter.groups.naming import Names
from geofilter.report.behind import Tally
from geofilter.report.document import ShownRow
from geofilter.report.labelled import LabelledParts
from geofilter.rows.records import Row
from geofilter.run.manifest import ScoreLine
from geofilter.run.reasons import reason
from geofilter.run.rows import reread
from geofilter.text import shorten

TOP = 100
"""highest rows that are shown"""
AROUND = 15
"""rows shown on either side of the cut"""
SHOWN = 250
"""rows shown, besides those that stand for groups; what the top and the cut leave is spread evenly over the upper half
of the ranks
"""
SAMPLE = 500
"""removed rows, those that are shown included, that words are taken from"""


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


class GatheredRows:
    """The rows of a cut as its report sees them; a `RowWatcher` of `Selection.write`."""

    def __init__(self, selection: Selection) -> None:
        self._selection = selection
        self.labelled = LabelledParts.of_run(selection.run)
        """None where there are no labels; asked for first, so that nothing is written where they cannot be read"""
        order = selection.order()
        self.groups = Groups.find(selection)
        self.names = Names(self.groups)
        ranks = shown_ranks(len(order), int(selection.removed.sum()))
        ranks = np.union1d(ranks, selection.rank()[self.groups.shown] - 1).astype(np.int64).tolist()
        self._rank = {int(order[rank]): rank + 1 for rank in ranks}
        n_removed = int(selection.removed.sum())
        sample = order[np.linspace(0, n_removed - 1, min(SAMPLE, n_removed)).astype(int)]
        self.wanted: Positions = np.union1d(np.union1d(order[ranks], sample), self.groups.watched)
        """the scored rows that are shown, or whose words are taken, ascending"""
        self.tally = Tally()
        self._rows: list[ShownRow] = []

    @classmethod
    def again(cls, selection: Selection) -> GatheredRows:
        """Gather the rows of a cut whose files are written already: the inputs are read for those that are shown.

        Raises:
            InputError, RunError: see `run.rows.reread`, `Run.score_lines`.
        """
        gathered, run = cls(selection), selection.run
        shown = set(gathered.wanted.tolist())
        lines: dict[int, ScoreLine] = {}
        watched = np.union1d(np.flatnonzero(selection.removed), gathered.wanted)
        for position, line in run.score_lines(watched):
            if selection.removed[position]:
                gathered.removed(line)
            if position in shown:
                lines[position] = line
        texts = reread(lines.values(), run.reading)
        for position, line in lines.items():
            gathered.row(position, line, texts[line["file"], line["line"]])
        return gathered

    def removed(self, line: ScoreLine) -> None:
        """Count a removed row."""
        self.tally.add(line)

    def row(self, position: int, line: ScoreLine, row: Row) -> None:
        """Take in a row: keep it if it is shown."""
        self.names.see(position, line, row)
        self.tally.see(line, row, bool(self._selection.removed[position]))
        if position not in self._rank:
            return
        self._rows.append(
            {
                "file": line["file"],
                "line": line["line"],
                "sha256": line["sha256"],
                "score": line["score"],
                "percentile": line["percentile"],
                "bank": line["bank"],
                "topic": line["topic"],
                "topics": line["topics"],
                "n_tokens": line["n_tokens"],
                "top_features": line["top_features"],
                "common": line["common"],
                "explained": line["explained"],
                "rank": self._rank[position],
                "removed": bool(self._selection.removed[position]),
                "reason": reason(line),
                "prompt": shorten(row.prompt),
                "response": shorten(row.response),
            }
        )
        if number := int(self.groups.of[position]):
            self._rows[-1]["group"] = number
        if "like" in line:
            self._rows[-1]["like"] = line["like"]

    def rows(self) -> list[ShownRow]:
        """The rows that are shown, by rank."""
        return sorted(self._rows, key=lambda row: row["rank"])
