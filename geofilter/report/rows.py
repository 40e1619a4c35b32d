"""What a report needs of the rows, gathered while they are written: those it shows, and the features behind all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from geofilter.arrays import Positions
from geofilter.bank.bank import Bank
from geofilter.cut.cut import Selection
from geofilter.cut.outputs import reason
from geofilter.errors import RunError
from geofilter.report.document import ShownExcerpt, ShownRow, ToxicFeature
from geofilter.report.labelled import LabelledParts
from geofilter.rows.records import Row
from geofilter.run.manifest import ScoreLine
from geofilter.run.marks import RowMarks, marks_of
from geofilter.run.rows import reread
from geofilter.text import shorten, shown_length

TOP = 100
"""highest rows that are shown"""
AROUND = 15
"""rows shown on either side of the cut"""
SHOWN = 250
"""rows shown in all; what the top and the cut leave is spread evenly over the upper half of the ranks"""
TOP_FEATURES = 15
NEURONPEDIA = "https://www.neuronpedia.org"


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
        ranks = shown_ranks(len(order), int(selection.removed.sum()))
        self._rank = {int(order[rank]): rank + 1 for rank in ranks}
        self.wanted: Positions = np.sort(order[ranks])
        """the scored rows that are shown, ascending"""
        self.tally = Tally()
        self._rows: list[ShownRow] = []
        self._visible: dict[int, int] = {}
        """rank of a shown row -> characters of its response that are shown"""

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
        """Keep a row that is shown."""
        self._visible[self._rank[position]] = shown_length(row.response)
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
                "rank": self._rank[position],
                "removed": bool(self._selection.removed[position]),
                "reason": reason(line),
                "prompt": shorten(row.prompt),
                "response": shorten(row.response),
            }
        )

    def rows(self) -> list[ShownRow]:
        """The rows that are shown, by rank; their words are marked where the scan has stored shares."""
        rank_of = {rank: position for position, rank in self._rank.items()}
        marks = self._marks([rank_of[row["rank"]] for row in self._rows])
        for row in self._rows:
            found = marks.get(rank_of[row["rank"]])
            if found is not None and found.share is not None:
                row["spans"] = found.spans(self._visible[row["rank"]])
        return sorted(self._rows, key=lambda row: row["rank"])

    def _marks(self, positions: list[int]) -> dict[int, RowMarks]:
        """Of some scored rows; none where a shard is damaged: a cut and its report do without."""
        try:
            return marks_of(self._selection.run, positions)
        except RunError:
            return {}


@dataclass(slots=True)
class _Total:
    label: str
    share: float = 0.0
    closeness: float = 0.0
    rows: int = 0
    through: dict[int, tuple[str, float]] = field(default_factory=dict)


class Tally:
    """Toxic features behind the removed rows, summed up row by row."""

    def __init__(self) -> None:
        self._total: dict[tuple[str, int], _Total] = {}

    def add(self, line: ScoreLine) -> None:
        """Count a removed row's line of scores.jsonl."""
        near = set()
        for t in line["top_features"]:
            key = (line["bank"], t["nearest_toxic"])
            total = self._total.setdefault(key, _Total(t["nearest_label"]))
            near.add(key)
            total.share += t["share"]
            total.closeness += t["share"] * t["closeness"]
            label, share = total.through.get(t["feature"], (t["label"], 0.0))
            total.through[t["feature"]] = (label, share + t["share"])
        for key in near:
            self._total[key].rows += 1

    def largest(self, page: str | None, banks: Mapping[str, Bank]) -> list[ToxicFeature]:
        """Those with the largest sum of the shares of the features nearest to them.

        Args:
            page: the SAE's name on neuronpedia.org.
            banks: by name, those that are still there; they have the texts that show a feature.
        """
        ordered = sorted(self._total.items(), key=lambda item: (-item[1].share, item[0][1]))[:TOP_FEATURES]
        return [
            {
                "bank": bank,
                "feature": feature,
                "label": total.label,
                "share": round(total.share, 4),
                # Shares are rounded where they are stored, some to nothing.
                "closeness": round(total.closeness / total.share, 4) if total.share else 0.0,
                "rows": total.rows,
                "through": [
                    {"feature": f, "label": label, "share": round(s, 4)}
                    for f, (label, s) in sorted(total.through.items(), key=lambda kv: -kv[1][1])[:3]
                ],
                "examples": _excerpts(banks.get(bank), feature),
                "link": f"{NEURONPEDIA}/{page}/{feature}" if page else None,
            }
            for (bank, feature), total in ordered
        ]


def _excerpts(bank: Bank | None, feature: int) -> list[ShownExcerpt]:
    """Texts of a bank's own rows in which a toxic feature is strongest."""
    if bank is None:
        return []
    places = np.flatnonzero(bank.toxic == feature).tolist()
    return [{"text": e["text"], "strong": e["strong"], "bad": e["bad"]} for p in places for e in bank.examples[p]]
