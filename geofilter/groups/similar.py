"""The rows of a run that are about the same as one of them, or as a text (FAISS)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import numpy as np
import numpy.typing as npt

from geofilter.arrays import F32, Positions
from geofilter.bank.search import ExactSearch
from geofilter.cut.cut import by_score
from geofilter.run.rows import rows_at
from geofilter.run.score_arrays import rank_array
from geofilter.run.store import Run
from geofilter.run.vectors import Vectors
from geofilter.text import inert, shorten

EXACT = 1_000_000
"""rows up to which the search is exact; of more it is an inverted index (IVF)"""
PART = 100_000
"""rows that are searched at a time, or entered into an index"""
PROBES = 32
"""lists of the index that are searched"""
TRAINED = 40
"""rows a list that the index is trained on"""
QUERIES = 100
"""rows that its recall is measured on"""
TEXT = 300
"""characters shown of a row"""


class Similar(TypedDict):
    """A row that is about the same."""

    similarity: float
    """cosine"""
    rank: int
    """1 for the highest of what the run ranks by"""
    score: float
    difference: NotRequired[float]
    """score less that of the rejected answer, where the run ranks by that"""
    file: str
    line: int
    text: str
    """beginning of its response"""


@dataclass(frozen=True, slots=True)
class Found:
    """The most similar rows."""

    rows: list[Similar]
    """the most similar one first"""
    recall: float | None
    """share of the truly nearest rows that the index finds, measured; None for an exact search"""


def similar(run: Run, vectors: Vectors, query: F32, count: int, but: int | None = None) -> Found:
    """The rows nearest to a vector.

    Args:
        query: (d,) c of a row or a text, see `bank.space`.
        count: how many; fewer where there are not as many.
        but: a scored row (0-based) that is left out.

    Raises:
        InputError, RunError: the rows cannot be read again.
    """
    wanted = count if but is None else count + 1
    rows, recall = vectors.rows.whole(), None
    if len(rows) <= EXACT:
        cosine, which = exact(rows, query[None], wanted)
    else:
        index = Inverted(rows)
        cosine, which = index.nearest(query[None], wanted)
        recall = index.recall(wanted)
    found = [(i, c) for i, c in zip(which[0].tolist(), cosine[0].tolist(), strict=True) if i not in (but, -1)][:count]
    return Found(_rows(run, found), recall)


def exact(rows: npt.NDArray[np.float16], queries: F32, k: int) -> tuple[F32, Positions]:
    """Cosines (m, k) and positions of the rows nearest to each query; the rows are searched part by part."""
    cosine, which = np.zeros((len(queries), 0), np.float32), np.zeros((len(queries), 0), np.int64)
    for start in range(0, len(rows), PART):
        near, place = ExactSearch(rows[start : start + PART], few=True).nearest(queries, k)
        cosine, which = np.hstack([cosine, near]), np.hstack([which, place + start])
        best = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
        cosine, which = np.take_along_axis(cosine, best, 1), np.take_along_axis(which, best, 1)
    return cosine, which


class Inverted:
    """An inverted index of rows (IVF): the rows near to one of its centres are a list, and few lists are searched."""

    def __init__(self, rows: npt.NDArray[np.float16]) -> None:
        import faiss

        self._rows = rows
        n, d = rows.shape
        lists = max(1, int(np.sqrt(n)))
        # Half precision, as the rows are stored; evenly spaced rows stand for all.
        index: Any = faiss.IndexIVFScalarQuantizer(
            faiss.IndexFlatIP(d), d, lists, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT, False
        )
        sample = np.unique(np.linspace(0, n - 1, min(n, TRAINED * lists)).astype(np.int64))
        index.train(rows[sample].astype(np.float32))
        for start in range(0, n, PART):
            index.add(rows[start : start + PART].astype(np.float32))
        index.nprobe = min(PROBES, lists)
        self._index = index

    def nearest(self, queries: F32, k: int) -> tuple[F32, Positions]:
        """As `exact`; a position is -1 where there are not as many."""
        cosine, which = self._index.search(np.ascontiguousarray(queries), k)
        return cosine, which

    def recall(self, k: int) -> float:
        """Share of the k nearest rows that are found, of rows spaced evenly over all."""
        places = np.unique(np.linspace(0, len(self._rows) - 1, QUERIES).astype(np.int64))
        queries = self._rows[places].astype(np.float32)
        ours, truth = self.nearest(queries, k)[1], exact(self._rows, queries, k)[1]
        return float(np.mean([np.isin(b, a).mean() for a, b in zip(ours, truth, strict=True)]))


def _rows(run: Run, found: list[tuple[int, float]]) -> list[Similar]:
    by = rank_array(run.manifest)
    arrays = run.arrays({"score", by})
    rank = np.empty(len(arrays[by]), np.int64)
    rank[by_score(arrays[by])] = np.arange(1, len(rank) + 1)
    rows = rows_at(run, [i for i, _ in found])
    similar: list[Similar] = []
    for i, cosine in found:
        similar.append(
            {
                "similarity": round(cosine, 3),
                "rank": int(rank[i]),
                "score": float(arrays["score"][i]),
                "file": rows[i].file,
                "line": rows[i].line,
                "text": inert(shorten(rows[i].response, TEXT), keep="\n\t"),
            }
        )
        if by == "difference":
            similar[-1]["difference"] = float(arrays[by][i])
    return similar
