"""What a report needs of the rows, gathered while they are written: those it shows, and the features behind all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from geofilter.arrays import Positions
from geofilter.bank.bank import Bank
from geofilter.cut.cut import Selection
from geofilter.cut.outputs import reason
from geofilter.report import texts
from geofilter.report.document import ShownExcerpt, ShownRow, ToxicFeature
from geofilter.report.labelled import LabelledParts
from geofilter.report.texts import Texts, drawn_ranks
from geofilter.rows.records import Row
from geofilter.run.manifest import ScoreLine
from geofilter.run.marks import marks_of
from geofilter.run.rows import reread_each
from geofilter.text import shorten

TOP = 100
"""highest rows that are shown"""
AROUND = 15
"""rows shown on either side of the cut"""
SHOWN = 250
"""rows shown in all; what the top and the cut leave is spread evenly over the upper half of the ranks"""
MOST_LISTED = 250_000
"""rows that the page lists, the highest scores first; the rest only counts"""
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
        n_removed = int(selection.removed.sum())
        self.drawn = drawn_ranks(selection, MOST_LISTED)
        """0-based ranks of rows drawn at random, see `texts.drawn_ranks`"""
        shown = shown_ranks(len(order), n_removed)
        gone = np.flatnonzero(selection.removed[order[:MOST_LISTED]])[: texts.MOST]
        others = {*gone.tolist(), *self.drawn["removed"], *self.drawn["kept"]}.difference(shown)
        self._rank = {int(order[rank]): rank + 1 for rank in (*shown, *others)}
        self._shown = {int(order[rank]) for rank in shown}
        self.wanted: Positions = np.sort(np.fromiter(self._rank, np.int64))
        """the scored rows that are shown, or whose texts are, ascending"""
        self.texts = Texts(len(others))
        """of rows that are not shown: removed ones, as many as there is room for, and those drawn"""
        self.n_texts = int(selection.removed[self.wanted].sum())
        """removed rows among them"""
        self.tally = Tally()
        self._rows: dict[int, ShownRow] = {}

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
                gathered.removed(line)
            if position in wanted:
                lines[position] = line
        positions = {(line["file"], line["line"]): position for position, line in lines.items()}
        for row in reread_each(lines.values(), run.reading):
            position = positions[row.file, row.line]
            gathered.row(position, lines[position], row)
        return gathered

    def removed(self, line: ScoreLine) -> None:
        """Count a removed row."""
        self.tally.add(line)

    def row(self, position: int, line: ScoreLine, row: Row) -> None:
        """Keep a row that is shown, and the text of one that is wanted besides."""
        if position not in self._shown:
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
            "rank": self._rank[position],
            "removed": bool(self._selection.removed[position]),
            "reason": reason(line),
            "prompt": shorten(row.prompt),
            "response": shorten(row.response),
        }
        if "like" in line:
            shown["like"] = line["like"]
        self._rows[position] = shown

    def rows(self) -> list[ShownRow]:
        """The rows that are shown, by rank, their tokens with their shares of the score where the scan has stored them.

        Raises:
            RunError: a shard is missing or damaged.
        """
        for position, of in marks_of(self._selection.run, sorted(self._rows)).items():
            row = self._rows[position]
            # The ellipsis of a shortened response is no part of it.
            spans = of.spans(len(row["response"].removesuffix("…")))
            if spans:
                row["spans"] = [list(span) for span in spans]
        return sorted(self._rows.values(), key=lambda row: row["rank"])


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
