"""The words of texts that each feature is strongest on, collected while the texts are read: names for features.

A feature's name is up to four words with content that stand out by p log(p / q): p is the word's part of the
feature's squared activation, q its part of the tokens of the texts. How much of the squared activation falls on words
with content at all tells features that mean something from those of grammar and punctuation.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from geofilter.arrays import F64
from geofilter.bank.background import CONTENT
from geofilter.bank.naming import Named
from geofilter.bank.words import BETWEEN, MOST, enclosing, folded, says_something
from geofilter.encode.tokens import Encoded
from geofilter.rows.records import Row
from geofilter.text import inert

LEAST = 2
"""tokens of a word that a feature fires on, before it may name it"""
SPECIFIC = 0.02
"""part of a feature's squared activation that the words of its name have together at least"""
PENDING = 1 << 22
"""activations that are held before they are summed up"""


class WordCollector:
    """Sums up, for every feature, its squared activations on each word of some rows."""

    def __init__(self, d_sae: int) -> None:
        self._d_sae = d_sae
        self._numbers: dict[str, int] = {"": 0}
        """word, see `folded` -> its number"""
        self._tokens: list[int] = [0]
        """of each number its response tokens"""
        self._written: list[dict[str, int]] = [{}]
        """and how often it is written how"""
        self._word = np.zeros(0, np.int64)
        """the number of the word of each response token of the rows that are read now"""
        self._pending: list[tuple[npt.NDArray[np.int64], F64]] = []
        self._n_pending = 0
        # Of each word on which a feature fires: number * d_sae + feature, summed squares, tokens.
        self._keys: npt.NDArray[np.int64] = np.zeros(0, np.int64)
        self._squares: F64 = np.zeros(0)
        self._fired: npt.NDArray[np.int64] = np.zeros(0, np.int64)

    def after(self) -> WordCollector:
        """One that goes on where this one is, which stays as it is."""
        self._sum_up()
        new = WordCollector(self._d_sae)
        new._numbers, new._tokens = dict(self._numbers), list(self._tokens)
        new._written = [dict(written) for written in self._written]
        new._keys, new._squares, new._fired = self._keys, self._squares, self._fired
        return new

    def start(self, rows: Sequence[Row], encoded: Sequence[Encoded]) -> None:
        """Say which rows are read next."""
        words = (w for row, tokens in zip(rows, encoded, strict=True) for w in enclosing(row.response, tokens.spans))
        self._word = np.fromiter(map(self._number, words), np.int64)

    def _number(self, word: str) -> int:
        number = self._numbers.setdefault(folded(word), len(self._numbers))
        if number == len(self._written):
            self._written.append({})
            self._tokens.append(0)
        self._tokens[number] += 1
        self._written[number][word] = self._written[number].get(word, 0) + 1
        return number

    def observe(
        self, tokens: npt.NDArray[np.int64], features: npt.NDArray[np.int64], values: npt.NDArray[np.float32]
    ) -> None:
        """Take in activations, see `reader.Observer`."""
        self._pending.append((self._word[tokens] * self._d_sae + features, values.astype(np.float64) ** 2))
        self._n_pending += len(values)
        if self._n_pending > PENDING:
            self._sum_up()

    def _sum_up(self) -> None:
        n = [np.ones(len(keys), np.int64) for keys, _ in self._pending]
        keys = np.concatenate([self._keys, *(keys for keys, _ in self._pending)])
        squares = np.concatenate([self._squares, *(squares for _, squares in self._pending)])
        fired = np.concatenate([self._fired, *n])
        self._keys, at = np.unique(keys, return_inverse=True)
        self._squares = np.bincount(at, weights=squares, minlength=len(self._keys)).astype(np.float64)
        self._fired = np.rint(np.bincount(at, fired, len(self._keys))).astype(np.int64)
        self._pending, self._n_pending = [], 0

    def fired(self) -> npt.NDArray[np.int64]:
        """(d_sae,) response tokens on which each feature fires."""
        self._sum_up()
        return np.bincount(self._keys % self._d_sae, self._fired, self._d_sae).astype(np.int64)

    def named(self) -> Named:
        """What the words say of every feature."""
        self._sum_up()
        word, feature = np.divmod(self._keys, self._d_sae)
        total = np.bincount(feature, self._squares, self._d_sae)
        content = np.array([says_something(word) for word in self._numbers])
        on_content = np.bincount(feature, self._squares * content[word], self._d_sae)
        usual = np.array(self._tokens, np.float64) / max(1, sum(self._tokens))
        p = self._squares / total[feature]
        out = np.where(content[word] & (self._fired >= LEAST), p * np.log(p / usual[word]), 0)
        order = np.lexsort((word, -out, feature))
        bounds = np.searchsorted(feature[order], np.arange(self._d_sae + 1))
        names = [max(sorted(written), key=written.__getitem__) if written else "" for written in self._written]
        part = np.divide(on_content, total, out=np.ones(self._d_sae), where=total > 0)
        labels = []
        for f, (start, end) in enumerate(pairwise(bounds.tolist())):
            best = order[start : min(end, start + MOST)]
            best = best[out[best] > 0]
            found = [inert(names[number]) for number in word[best].tolist()]
            own = part[f] >= CONTENT and p[best].sum() >= SPECIFIC
            labels.append(BETWEEN.join(found) if own else "")
        return Named(labels, np.minimum(part, 1).astype(np.float32))
