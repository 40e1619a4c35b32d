"""What is behind the removed rows: their features, summed up row by row, and the words that carry them."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from geofilter.bank.bank import Bank
from geofilter.bank.words import enclosing, folded, standing_out, words_in
from geofilter.report.document import Explained, FeatureBehind, ShownExcerpt
from geofilter.rows.records import Row
from geofilter.run.manifest import NamedFeature, ScoreLine

SHOWN = 15
"""features shown"""
CHARS = 20_000
"""of a response that words are counted in"""
NEURONPEDIA = "https://www.neuronpedia.org"


@dataclass(slots=True)
class _Total:
    first: NamedFeature
    """as the first row names it"""
    share: float = 0.0
    times: float = 0.0
    """weighted by share"""
    rows: int = 0
    words: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    """share by word"""


class Tally:
    """Sums up the features that the removed rows name."""

    def __init__(self) -> None:
        self._total: dict[tuple[str, int], _Total] = {}
        self._explained: list[float] = []
        self._usual: Counter[str] = Counter()
        """words of the rows that were seen"""

    def add(self, line: ScoreLine) -> None:
        """Count a removed row's line of scores.jsonl."""
        self._explained.append(line["explained"])
        bank, known = line["bank"], self._total
        for named in line["top_features"]:
            total = known.get((bank, named["feature"])) or self._of(bank, named)
            total.share += named["share"]
            total.times += named["share"] * (named["times"] or 0.0)
            total.rows += 1

    def see(self, line: ScoreLine, row: Row, removed: bool) -> None:
        """Take the words of a row, and those that a removed row's features are strongest on."""
        text = row.response
        self._usual.update(map(folded, words_in(text[:CHARS])))
        placed = [named for named in line["top_features"] if removed and "at" in named]
        if not placed:
            return
        for named, word in zip(placed, enclosing(text, np.array([named["at"] for named in placed])), strict=True):
            if word:
                self._of(line["bank"], named).words[folded(word)] += named["share"]

    def _of(self, bank: str, named: NamedFeature) -> _Total:
        found = self._total.get((bank, named["feature"]))
        if found is None:
            found = self._total[bank, named["feature"]] = _Total(named)
        return found

    @property
    def explained(self) -> Explained | None:
        """How much of the removed rows' scores is explained; None where no row names a feature."""
        if not self._total:
            return None
        each = np.array(self._explained)
        return {"median": round(float(np.median(each)), 4), "half": round(float((each >= 0.5).mean()), 4)}

    def largest(self, page: str | None, banks: Mapping[str, Bank]) -> list[FeatureBehind]:
        """The features with the largest summed shares.

        Args:
            page: the SAE's name on neuronpedia.org.
            banks: by name, those that are still there; they have the texts that show a feature.
        """
        ordered = sorted(self._total.items(), key=lambda item: (-item[1].share, item[0]))[:SHOWN]
        return [
            {
                "bank": bank,
                "feature": feature,
                "label": total.first["label"],
                "words": standing_out(total.words, self._usual),
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
