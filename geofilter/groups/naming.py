"""What groups are called: words that their rows use more than others, seen while the rows are written."""

from __future__ import annotations

from collections import Counter

from geofilter.bank.words import BETWEEN, says_something, standing_out, words_in
from geofilter.groups.groups import Groups
from geofilter.rows.records import Row
from geofilter.run.manifest import NamedFeature, ScoreLine

CHARS = 5_000
"""of a response that words are taken from"""
WORDS = 3
"""of a name"""
FEATURES = 3
"""commonest features of a group"""
OFTEN = 0.1
"""share of a group's rows that use a word of its name, two rows at least"""


class Names:
    """Takes the words and features of rows that stand for groups."""

    def __init__(self, groups: Groups) -> None:
        self._of = {
            position: group.number for group in groups.groups for position in group.sample.tolist()
        } | dict.fromkeys(groups.others.tolist(), 0)
        self._words: dict[int, Counter[str]] = {}
        """rows by word, of each group and of others (0)"""
        self._rows: Counter[int] = Counter()
        self._features: dict[int, dict[int, NamedFeature]] = {}
        self._shares: dict[int, dict[int, float]] = {}

    def see(self, position: int, line: ScoreLine, row: Row) -> None:
        """Take a row, if it is one of them."""
        number = self._of.get(position)
        if number is None:
            return
        self._rows[number] += 1
        text = row.response[:CHARS]
        self._words.setdefault(number, Counter()).update({word.casefold() for word in words_in(text)})
        for named in line["top_features"]:
            self._features.setdefault(number, {})[named["feature"]] = named
            shares = self._shares.setdefault(number, {})
            shares[named["feature"]] = shares.get(named["feature"], 0.0) + named["share"]

    def name(self, number: int) -> str:
        """Up to three words of a group, the most telling one first; empty where none stands out."""
        words = self._words.get(number, Counter())
        # Against kept rows, and against other groups: what they share names none of them.
        usual = sum((self._words[n] for n in sorted(self._words) if n != number), Counter())
        least = max(2, OFTEN * self._rows[number])
        often = {word for word, rows in words.items() if rows >= least and says_something(word)}
        return BETWEEN.join(standing_out(words, usual, often)[:WORDS])

    def features(self, number: int) -> list[NamedFeature]:
        """The features with the largest summed shares."""
        shares = self._shares.get(number, {})
        ordered = sorted(shares, key=lambda feature: (-shares[feature], feature))
        return [self._features[number][feature] for feature in ordered[:FEATURES]]
