"""What is behind the removed rows: their features, summed up row by row, and the words that carry them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping

import numpy as np

from geofilter.bank.bank import Bank
from geofilter.bank.words import enclosing, folded, standing_out, words_in
from geofilter.report.document import Explained, FeatureBehind, ShownExcerpt
from geofilter.rows.records import Row
from geofilter.run.feature_sums import FeatureSums
from geofilter.run.manifest import ScoreLine

SHOWN = 15
"""features shown"""
CHARS = 20_000
"""of a response that words are counted in"""
NEURONPEDIA = "https://www.neuronpedia.org"


class Tally:
    """The features that the removed rows name, and the words they are strongest on."""

    def __init__(self) -> None:
        self.sums = FeatureSums()
        """of the removed rows"""
        self._words: dict[tuple[str, int], dict[str, float]] = defaultdict(lambda: defaultdict(float))
        """share by word, of each feature of a bank"""
        self._usual: Counter[str] = Counter()
        """words of the rows that were seen"""

    def see(self, line: ScoreLine, row: Row, removed: bool) -> None:
        """Take the words of a row, and those that a removed row's features are strongest on."""
        text = row.response
        self._usual.update(map(folded, words_in(text[:CHARS])))
        placed = [named for named in line["top_features"] if removed and "at" in named]
        if not placed:
            return
        for named, word in zip(placed, enclosing(text, np.array([named["at"] for named in placed])), strict=True):
            if word:
                self._words[line["bank"], named["feature"]][folded(word)] += named["share"]

    @property
    def explained(self) -> Explained | None:
        """How much of the removed rows' scores is explained; None where no row names a feature."""
        if not self.sums.totals:
            return None
        each = np.array(self.sums.explained)
        return {"median": round(float(np.median(each)), 4), "half": round(float((each >= 0.5).mean()), 4)}

    def largest(self, page: str | None, banks: Mapping[str, Bank]) -> list[FeatureBehind]:
        """The features with the largest summed shares.

        Args:
            page: the SAE's name on neuronpedia.org.
            banks: by name, those that are still there; they have the texts that show a feature.
        """
        ordered = sorted(self.sums.totals.items(), key=lambda item: (-item[1].share, item[0]))[:SHOWN]
        return [
            {
                "bank": bank,
                "feature": feature,
                "label": total.first["label"],
                "words": standing_out(self._words.get((bank, feature), {}), self._usual),
                "share": round(total.share, 4),
                "rows": total.rows,
                # Shares are rounded where they are stored, some to nothing.
                "times": None if total.first["times"] is None else round(total.times / (total.share or 1.0), 2),
                "toxic": total.first["toxic"],
                "near": total.first["near"],
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
