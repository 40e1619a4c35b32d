"""The features that rows score by, summed up over the rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from geofilter.run.manifest import NamedFeature, ScoreLine

Named = tuple[int, float, float | None]
"""a feature that a row names, as far as it is summed up: its number, share and times, see `NamedFeature`"""


@dataclass(slots=True)
class FeatureSum:
    """A feature of a bank over all rows that name it."""

    first: NamedFeature
    """as the first row names it"""
    share: float = 0.0
    times: float = 0.0
    """weighted by share"""
    rows: int = 0


class FeatureSums:
    """Sums of what rows name, row by row."""

    def __init__(self) -> None:
        self.totals: dict[tuple[str, int], FeatureSum] = {}
        """by bank and feature"""
        self.explained: list[float] = []
        """of each row, see `RowScore.explained`"""

    def add(self, line: ScoreLine) -> None:
        """Take a row's line of scores.jsonl."""
        features = line["top_features"]
        named = ((of["feature"], of["share"], of["times"]) for of in features)
        missing = self.take(line["bank"], line["explained"], named)
        for place in missing:
            self.totals[line["bank"], features[place]["feature"]].first = features[place]

    def take(self, bank: str, explained: float, named: Iterable[Named]) -> list[int]:
        """Take a row; return the places of the features that no row has named before, whose `first` is to be set."""
        known, missing = self.totals, []
        self.explained.append(explained)
        for place, (feature, share, times) in enumerate(named):
            total = known.get((bank, feature))
            if total is None:
                total = known[bank, feature] = FeatureSum(_NONE)
                missing.append(place)
            total.share += share
            total.times += share * (times or 0.0)
            total.rows += 1
        return missing

    def to_json(self) -> dict[str, Any]:
        """For another process."""
        totals = [[*key, of.first, of.share, of.times, of.rows] for key, of in self.totals.items()]
        return {"explained": self.explained, "totals": totals}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> FeatureSums:
        """The other way round."""
        sums = cls()
        sums.explained = value["explained"]
        sums.totals = {(bank, feature): FeatureSum(*of) for bank, feature, *of in value["totals"]}
        return sums


_NONE: NamedFeature = {"feature": -1, "label": "", "share": 0.0, "times": None, "toxic": False, "near": None}
