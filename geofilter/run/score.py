"""From stored features to scores: every row under every bank, the power verdicts, the quarantine. No model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import F32, F64, I32, Bools, Positions, among
from geofilter.bank.about import Like
from geofilter.bank.bank import Bank
from geofilter.bank.features import Pooled
from geofilter.bank.linear import Carried, Linear
from geofilter.bank.neighbours import Neighbours
from geofilter.bank.scorer import Scorer
from geofilter.config import CONTROLS
from geofilter.errors import BankError, InputError
from geofilter.files import atomic, dumps
from geofilter.run.manifest import BankScore, Scored, ScoreLine
from geofilter.run.named import Namer
from geofilter.run.names import LINES, QUARANTINE, SCORES
from geofilter.run.power import SAMPLE, PowerVerdict, assess, headline
from geofilter.run.shard import Shard, rejected_of
from geofilter.run.store import Run
from geofilter.run.tensors import packed
from geofilter.run.vectors import VectorWriter

if TYPE_CHECKING:
    import scipy.sparse as sp

MAX_SOURCES = 200
OTHER_SOURCES = "(other sources)"
"""stands for all sources past the first `MAX_SOURCES`"""


def score(run: Run, banks: Sequence[Bank], scorer: str, paths: Sequence[str]) -> Scored:
    """Score every shard under every bank; write scores and quarantine; return counts and verdicts.

    A row's score is its largest standard score over the banks; its topics are those of that bank. The verdicts are on
    rows that no bank was learnt from.

    Args:
        paths: of the run's inputs, as its lines are to name them.

    Raises:
        InputError: no row could be scored.
        RunError: a shard is missing or damaged, or an SAE has other features than the banks.
        BankError: a bank gives a score that is no number.
    """
    total = n_rows = n_quarantined = 0
    first = None
    for shard in run.shards(tokens=False):
        total, n_rows = total + len(shard.pooled), n_rows + shard.span.n_lines
        for bank in banks:
            _check_fit(shard, bank)
    with atomic(run.path / QUARANTINE, run.mode) as handle:
        for record in (record for path in run.parts for record in rejected_of(path)):
            first, n_quarantined = first or record, n_quarantined + 1
            handle.write(dumps(record))
    if not total and first is None:
        raise InputError(f"{paths[0]}: --only leaves out every row; nothing is scored")
    if not total and first is not None:
        raise InputError(
            f"{first['file']}: no row can be scored; line {first['line']}: {first['error']} "
            f"(all {n_quarantined} reasons: {run.path / QUARANTINE})"
        )
    scorers = [Scorer(bank, scorer) for bank in banks]
    neighbours = neighbours_of(scorers)
    sample = _Sample(scorers, math.ceil(total / SAMPLE))
    columns, vectors = _Columns([name for bank in banks for name in bank.topics.names]), VectorWriter(banks[0])
    with atomic(run.path / LINES) as lines:
        for shard in run.shards():
            scored = score_shard(shard, scorers, neighbours)
            lines.writelines(dumps(line) for line in scored.lines(scorers, paths))
            columns.add(scored)
            vectors.add(shard)
            sample.add(scored)
    arrays = columns.write(run)
    vectors.write(run)
    verdicts = sample.verdicts()
    return {
        "scorer": scorer,
        "topics": columns.topics,
        "counts": {
            "rows": n_rows,
            "scored": total,
            "quarantined": n_quarantined,
            "passed_over": n_rows - total - n_quarantined,
            "windowed": columns.n_windowed,
            "response_tokens": columns.n_response_tokens,
            "tokens": int(arrays["n_tokens"].sum()),
        },
        "remarks": dict(columns.remarks),
        "sources": list(columns.sources),
        "reference_scores": _reference(scorers),
        "share_keys": {s.bank.name: s.shares.key for s in scorers if s.shares is not None},
        "power": verdicts,
        "headline": headline(verdicts),
    }


def _check_fit(shard: Shard, bank: Bank) -> None:
    sizes = (bank.d_sae, len(bank.dense))
    if (shard.d_sae, shard.pooled.residual.shape[1]) != sizes:
        raise BankError(
            f"bank {bank.name}: for {sizes[0]:,} features of {sizes[1]:,} numbers, but these rows have "
            f"{shard.d_sae:,} of {shard.pooled.residual.shape[1]:,}; build it again"
        )


class Excess:
    """`Linear.excess` of a shard's rows, computed once for all scores and banks that see them the same way."""

    def __init__(self, pooled: Pooled) -> None:
        self._pooled = pooled
        self._known: dict[tuple[str, bytes, bytes], sp.csr_matrix] = {}

    def of(self, linear: Linear) -> sp.csr_matrix:
        """(n, d_sae) of the rows under a score."""
        key = (linear.of, linear.background.mean.tobytes(), linear.background.sd.tobytes())
        if key not in self._known:
            self._known[key] = linear.excess(self._pooled)
        return self._known[key]


@dataclass(frozen=True, slots=True, eq=False)
class ShardScores:
    """What the banks make of the n rows of a shard."""

    shard: Shard
    shas: list[str]
    excess: Excess
    standard: F64
    """(banks, n) standard scores"""
    percentile: F64
    """(banks, n)"""
    best: Positions
    """(n,) the bank with the largest standard score"""
    carried: list[Carried]
    """(n,) what carries the score under that bank; nothing where the scorer has no feature shares"""
    topics: list[dict[str, float]]
    """(n,) scores of that bank's topics"""
    topic: list[str | None]
    """(n,) the closest of them; None under a bank without topics"""
    like: list[Like]
    """(n,) the labelled rows of that bank that each is most like; empty where there are none"""
    learnt: Bools
    """(n, banks) the bank was learnt from the row, or from one that reads the same"""

    def lines(self, scorers: Sequence[Scorer], paths: Sequence[str]) -> list[ScoreLine]:
        """The rows' lines of scores.jsonl."""
        shard = self.shard
        names, namers = [s.bank.name for s in scorers], [Namer(s.bank) for s in scorers]
        out: list[ScoreLine] = []
        for i, b in enumerate(self.best.tolist()):
            each = [_rounded(self.standard[j, i], self.percentile[j, i]) for j in range(len(names))]
            carried = self.carried[i]
            out.append(
                {
                    "file": paths[shard.file[i]],
                    "line": int(shard.line[i]),
                    "sha256": self.shas[i],
                    "score": each[b]["score"],
                    "percentile": each[b]["percentile"],
                    "bank": names[b],
                    "banks": dict(zip(names, each, strict=True)),
                    "topic": self.topic[i],
                    "topics": self.topics[i],
                    "n_tokens": int(shard.pooled.n_tokens[i]),
                    "response_tokens": int(shard.response_tokens[i]),
                    "windows": int(shard.windows[i]),
                    "top_features": namers[b].named(carried.features, shard, i),
                    "common": round(carried.common, 6),
                    "explained": round(carried.explained, 5),
                }
            )
            if self.like[i]:
                out[-1]["like"] = self.like[i]
        return out


def neighbours_of(scorers: Sequence[Scorer]) -> list[Neighbours | None]:
    """What finds the labelled rows that a row is like, for each bank; None for one that keeps none, and for a scorer
    that knows no bank.
    """
    return [None if s.bank.rows is None or s.name in CONTROLS else Neighbours(s.bank) for s in scorers]


def score_shard(shard: Shard, scorers: Sequence[Scorer], neighbours: Sequence[Neighbours | None]) -> ShardScores:
    """Score the rows of a shard under every bank.

    Args:
        neighbours: of the banks, see `neighbours_of`.

    Raises:
        BankError: a bank gives a score that is no number.
    """
    shas, excess = shard.shas(), Excess(shard.pooled)
    raw = [s.raw(shard.pooled, shas, None if s.linear is None else excess.of(s.linear)) for s in scorers]
    standard = np.stack([s.scale.standard(r) for s, r in zip(scorers, raw, strict=True)])
    percentile = np.stack([s.scale.percentile(r) for s, r in zip(scorers, raw, strict=True)])
    for b, scorer in enumerate(scorers):
        if not np.isfinite(standard[b]).all():
            raise BankError(f"bank {scorer.bank.name}: gives a row a score that is no number; build it again")
    best = standard.argmax(0)
    carried = [Carried([], 0.0, 0.0) for _ in shas]
    topics: list[dict[str, float]] = [{} for _ in shas]
    like: list[Like] = [{} for _ in shas]
    for b, scorer in enumerate(scorers):
        mine = np.flatnonzero(best == b)
        if scorer.shares is not None:
            rows = excess.of(scorer.shares.linear)[mine]
            found = scorer.shares.carried(rows, standard[b, mine], scorer.bank.common)
            for row, of_row in zip(mine.tolist(), found, strict=True):
                carried[row] = of_row
        names = scorer.bank.topics.names
        if names:
            of_topics = scorer.topic_scores(standard[b, mine], excess.of(scorer.topics)[mine])
            for row, values in zip(mine.tolist(), np.round(of_topics, 4).tolist(), strict=True):
                topics[row] = dict(zip(names, values, strict=True))
        if (near := neighbours[b]) is not None:
            found_near = near.like(shard.pooled.take(mine), excess.of(scorer.topics)[mine], shard.content[mine])
            for row, of in zip(mine.tolist(), found_near, strict=True):
                like[row] = of
    topic = [max(of, key=of.__getitem__) if of else None for of in topics]
    learnt = np.stack([among(shard.content, s.bank.learnt_from) for s in scorers], axis=1)
    return ShardScores(shard, shas, excess, standard, percentile, best, carried, topics, topic, like, learnt)


class _Columns:
    """The scores as arrays, shard by shard; written as one file, for fast cuts."""

    def __init__(self, topics: Sequence[str]) -> None:
        self.topics = list(dict.fromkeys(topics))
        self.sources: dict[str, int] = {}
        """where rows say they come from -> number"""
        self.n_windowed = self.n_response_tokens = 0
        self.remarks: Counter[str] = Counter()
        self._parts: list[dict[str, npt.NDArray[Any]]] = []

    def add(self, scored: ShardScores) -> None:
        """Take in a shard."""
        shard, best, each = scored.shard, scored.best, np.arange(len(scored.best))
        topic = [-1 if t is None else self.topics.index(t) for t in scored.topic]
        self._parts.append(
            {
                "file": shard.file,
                "line": shard.line,
                "sha256": shard.sha256,
                "score": np.round(scored.standard[best, each], 6),
                "percentile": np.round(scored.percentile[best, each], 6),
                "bank": best.astype(np.int32),
                "topic": np.array(topic, np.int32),
                "style": shard.style,
                "n_tokens": shard.pooled.n_tokens,
                "n_turns": shard.n_turns,
                "shape": shard.shape,
                "source": self._numbered(shard.source),
                "learnt": scored.learnt,
            }
        )
        self.n_windowed += int((shard.windows > 1).sum())
        self.n_response_tokens += int(shard.response_tokens.sum())
        self.remarks.update(shard.remarks)

    def _numbered(self, names: Sequence[str]) -> I32:
        """(n,) the number of each source; new ones are entered."""
        known = self.sources
        numbers = []
        for name in names:
            shown = name if name in known or len(known) < MAX_SOURCES else OTHER_SOURCES
            numbers.append(known.setdefault(shown, len(known)))
        return np.array(numbers, np.int32)

    def write(self, run: Run) -> dict[str, npt.NDArray[Any]]:
        """Write all of it into the run's folder, and return it."""
        arrays = {k: np.concatenate([p[k] for p in self._parts]) for k in self._parts[0]}
        with atomic(run.path / SCORES) as handle:
            handle.write(packed(arrays, {}))
        return arrays


class _Sample:
    """Rows spaced evenly over the run, on which each bank's verdict is given."""

    def __init__(self, scorers: Sequence[Scorer], stride: int) -> None:
        self._scorers, self._stride = scorers, stride
        self._seen = 0
        self._style: list[F32] = []
        self._standard: list[list[F64]] = [[] for _ in scorers]
        self._null: list[list[F64]] = [[] for _ in scorers]

    def add(self, scored: ShardScores) -> None:
        """Take some of a shard's rows."""
        n = len(scored.best)
        picked = np.flatnonzero(((np.arange(n) + self._seen) % self._stride == 0) & ~scored.learnt.any(1))
        self._seen += n
        self._style.append(scored.shard.style[picked])
        for b, scorer in enumerate(self._scorers):
            null = scorer.null
            self._standard[b].append(scored.standard[b, picked])
            self._null[b].append(null.standard(scored.excess.of(null.linear)[picked]))

    def verdicts(self) -> list[PowerVerdict]:
        """Assess each bank."""
        style = np.concatenate(self._style)
        return [
            assess(scorer.bank, np.concatenate(standard), np.concatenate(null), style)
            for scorer, standard, null in zip(self._scorers, self._standard, self._null, strict=True)
        ]


def _rounded(score: float, percentile: float) -> BankScore:
    return {"score": round(float(score), 6), "percentile": round(float(percentile), 6)}


def _reference(scorers: Sequence[Scorer]) -> list[float]:
    """Scores of ordinary rows, ascending: the largest standard score over the banks, as for any row."""
    rows = scorers[0].bank.reference
    shas = [f"reference-{i}" for i in range(len(rows))]
    scores = np.max([scorer.standard(rows, shas) for scorer in scorers], axis=0)
    return [round(float(s), 3) for s in np.sort(scores)]
