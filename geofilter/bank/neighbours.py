"""Which labelled rows of a bank a row is most like: case-based reasons for a score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from geofilter.arrays import F32, F64, Digests, Positions
from geofilter.bank.about import Like, Near
from geofilter.bank.bank import Bank
from geofilter.bank.features import Pooled
from geofilter.bank.known import DIGEST, MOST, KnownRow, KnownRows
from geofilter.bank.scorer import Scorer
from geofilter.bank.search import ExactSearch
from geofilter.bank.space import Content, placed

if TYPE_CHECKING:
    import scipy.sparse as sp

_SIDES = (("bad", True), ("good", False))


def content_of(bank: Bank) -> Content:
    """What puts rows into the space of what they are about, as a bank has it."""
    return Content.about(bank.reference, None if bank.rows is None else bank.rows.basis)


class Neighbours:
    """Searches the labelled rows that a bank keeps.

    Args:
        bank: one that has `rows`.
    """

    def __init__(self, bank: Bank) -> None:
        if bank.rows is None:
            raise ValueError(f"bank {bank.name} keeps no rows")
        self._place, self._rows = _Place(bank, content_of(bank)), bank.rows
        bad = np.array([row["bad"] for row in bank.rows.texts], bool)
        self._sides: list[tuple[str, Positions, ExactSearch]] = [
            (name, found, ExactSearch(bank.rows.vectors[found]))
            for name, side in _SIDES
            if len(found := np.flatnonzero(bad == side))
        ]

    def like(self, pooled: Pooled, logs: sp.csr_matrix, content: Digests, lean: F64 | None = None) -> list[Like]:
        """Of each row the nearest labelled rows, one a side; a row is not like itself.

        Args:
            pooled: n rows.
            logs: (n, d_sae) their log activations, see `Background.log_matrix`.
            content: (n, 32) hashes of what is read of them.
            lean: (n, topics) sums of the bank's topics, where they are known, see `Scorer.topics`.
        """
        out: list[Like] = [{} for _ in content]
        if not out:
            return out
        vectors = self._place.of(pooled, logs, lean)
        for name, positions, search in self._sides:
            # Of a content a side has one row, so the second one is another.
            cosine, which = search.nearest(vectors, 2)
            found = positions[which]
            itself = (self._rows.content[found[:, 0]] == content[:, :DIGEST]).all(1)
            for i, own in enumerate(itself.tolist()):
                if own >= found.shape[1]:
                    continue  # it is the only one
                near: Near = {"row": int(found[i, int(own)]), "similarity": round(float(cosine[i, int(own)]), 3)}
                if name == "bad":
                    out[i]["bad"] = near
                else:
                    out[i]["good"] = near
        return out

    def similarity(self, pooled: Pooled, row: int) -> float:
        """Cosine of one row and a labelled row; not a number where there is no such one."""
        if not 0 <= row < len(self._rows):
            return math.nan
        vector = self._place.of(pooled, self._place.bank.background.log_matrix(pooled))[0]
        return float(vector @ self._rows.vectors[row].astype(np.float32))


class _Place:
    """Puts rows into the space of a bank."""

    def __init__(self, bank: Bank, content: Content) -> None:
        self.bank, self._content, self._scorer = bank, content, Scorer(bank, "ridge")
        self._topics = bank.topics.sums(bank.background)
        self._offset = bank.topics.offset

    def of(self, pooled: Pooled, logs: sp.csr_matrix, lean: F64 | None = None) -> F32:
        """(n, k + 1 + topics) v, see `space`; for `lean` see `Neighbours.like`."""
        content = self._content.of(pooled)
        standard = self._scorer.scale.standard(np.asarray(logs @ self.bank.weights.astype(np.float64)))
        return placed(content, standard, (self._topics.sums(logs) if lean is None else lean) - self._offset)


def keeping(bank: Bank, pooled: Pooled, texts: Sequence[KnownRow], content: Digests, prior: Bank | None = None) -> Bank:
    """The bank with labelled rows to show, each content once a side; of over `MOST` an even choice.

    Args:
        pooled: features of the rows.
        texts: (n,) what is kept of each.
        content: (n, 32) hashes of what is read of each.
        prior: a bank of the same target, whose basis is taken over, so that rows lie alike under both.
    """
    first: dict[tuple[bool, bytes], int] = {}
    for i, (text, digest) in enumerate(zip(texts, content, strict=True)):
        first.setdefault((text["bad"], digest[:DIGEST].tobytes()), i)
    kept = np.array(sorted(first.values()), np.int64)
    if len(kept) > MOST:
        kept = kept[np.linspace(0, len(kept) - 1, MOST).astype(np.int64)]
    content_space = content_of(bank if prior is None else prior)
    rows = pooled.take(kept)
    vectors = _Place(bank, content_space).of(rows, bank.background.log_matrix(rows)).astype(np.float16)
    known = KnownRows([texts[i] for i in kept], content[kept][:, :DIGEST], vectors, content_space.basis)
    return replace(bank, rows=known)
