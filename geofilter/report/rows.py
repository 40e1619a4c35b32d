"""What a report needs of the rows, gathered while they are written: those it shows, and the features behind all."""

from __future__ import annotations

import numpy as np

from geofilter.arrays import Positions
from geofilter.cut.cut import Selection
from geofilter.errors import RunError
from geofilter.groups.groups import Groups
from geofilter.groups.naming import Names
from geofilter.report import texts
from geofilter.report.behind import Tally
from geofilter.report.document import ShownRow
from geofilter.report.draw import drawn_ranks
from geofilter.report.labelled import LabelledParts
from geofilter.report.texts import Texts
from geofilter.rows.pairs import rejected_text
from geofilter.rows.records import Row
from geofilter.run.feature_sums import FeatureSums
from geofilter.run.manifest import ScoreLine
from geofilter.run.marks import RowMarks, marks_of
from geofilter.run.reasons import reason
from geofilter.run.rows import reread_each
from geofilter.text import shorten, shown_length

TOP = 100
"""highest rows that are shown"""
AROUND = 15
"""rows shown on either side of the cut"""
SHOWN = 250
"""rows shown, besides those that stand for groups or are drawn at random; what the top and the cut leave is spread
evenly over the upper half of the ranks
"""
READ = 20
"""rows drawn at random from each side that are shown: those that are read first"""
MOST_LISTED = 250_000
"""rows that the page lists, the highest scores first; the rest only counts"""
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
        n_removed = int(selection.removed.sum())
        self.drawn = drawn_ranks(selection, MOST_LISTED)
        """0-based ranks of rows drawn at random, see `draw.drawn_ranks`"""
        self.groups = Groups.find(selection)
        self.names = Names(self.groups)
        of_groups = selection.rank()[self.groups.shown] - 1
        first = (rank for drawn in self.drawn.values() for rank in drawn[:READ])
        shown = sorted({*shown_ranks(len(order), n_removed), *of_groups.tolist(), *first})
        gone = np.flatnonzero(selection.removed[order[:MOST_LISTED]])
        gone = gone if len(gone) <= texts.MOST else gone[: texts.OF_MORE]
        others = {*gone.tolist(), *self.drawn["removed"], *self.drawn["kept"]}.difference(shown)
        self._rank = {int(order[rank]): rank + 1 for rank in (*shown, *others)}
        self._shown = {int(order[rank]) for rank in shown}
        with_text = np.sort(np.fromiter(self._rank, np.int64))
        self.wanted: Positions = np.union1d(with_text, self.groups.watched)
        """the scored rows that are shown, whose texts are, or whose words are taken, ascending"""
        self.texts = Texts(len(others))
        """of rows that are not shown: removed ones, as many as there is room for, and those drawn"""
        self._sample = {int(order[i]) for i in gone[np.linspace(0, len(gone) - 1, min(SAMPLE, len(gone))).astype(int)]}
        """removed rows that words are taken from"""
        self.n_texts = int(selection.removed[with_text].sum())
        """removed rows that are shown or whose texts are held"""
        self.tally = Tally()
        self._reading = selection.run.reading
        self._rows: dict[int, ShownRow] = {}
        self._visible: dict[int, int] = {}
        """characters of a shown row's response that are shown"""

    @classmethod
    def again(cls, selection: Selection) -> GatheredRows:
        """Gather the rows of a cut whose files are written already: the inputs are read for those that are wanted.

        Raises:
            InputError, RunError: see `run.rows.reread_each`, `Run.score_lines`.
        """
        gathered, run = cls(selection), selection.run
        wanted = set(gathered.wanted.tolist())
        lines: dict[int, ScoreLine] = {}
        watched = np.union1d(np.flatnonzero(selection.removed), gathered.wanted)
        for position, line in run.score_lines(watched):
            if selection.removed[position]:
                gathered.tally.sums.add(line)
            if position in wanted:
                lines[position] = line
        positions = {(line["file"], line["line"]): position for position, line in lines.items()}
        for row in reread_each(lines.values(), run.reading):
            position = positions[row.file, row.line]
            gathered.row(position, lines[position], row)
        return gathered

    def named(self, sums: FeatureSums) -> None:
        """Take what the removed rows name."""
        self.tally.sums = sums

    def row(self, position: int, line: ScoreLine, row: Row) -> None:
        """Keep a row that is shown, and the text or the words of one that is wanted besides."""
        self.names.see(position, line, row)
        if position in self._shown or position in self._sample:
            self.tally.see(line, row, bool(self._selection.removed[position]))
        if position not in self._shown:
            if position in self._rank:
                self.texts.add(self._rank[position] - 1, line["sha256"], row)
            return
        shown: ShownRow = {
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
        if number := int(self.groups.of[position]):
            shown["group"] = number
        if "rejected_score" in line:
            shown["rejected_score"] = line["rejected_score"]
            shown["rejected"] = shorten(rejected_text(row, self._reading) or "")
        if "like" in line:
            shown["like"] = line["like"]
        self._rows[position] = shown
        self._visible[position] = shown_length(row.response)

    def rows(self) -> list[ShownRow]:
        """The rows that are shown, by rank; their words are marked where the scan has stored shares."""
        for position, found in self._marks().items():
            if found.share is not None:
                self._rows[position]["spans"] = found.spans(self._visible[position])
        return sorted(self._rows.values(), key=lambda row: row["rank"])

    def _marks(self) -> dict[int, RowMarks]:
        """Of the rows that are shown; none where a shard is damaged: a cut and its report do without."""
        try:
            return marks_of(self._selection.run, sorted(self._rows))
        except RunError:
            return {}
