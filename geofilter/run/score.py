"""From stored features to scores: every row under every bank, the power verdicts, the quarantine. No model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import IO

import numpy as np
from threadpoolctl import threadpool_limits

from geofilter.arrays import F32, F64
from geofilter.bank.bank import Bank
from geofilter.bank.scorer import Scorer
from geofilter.errors import BankError, InputError
from geofilter.files import atomic, dumps
from geofilter.run.handicap import largest
from geofilter.run.manifest import Quarantined, Scored
from geofilter.run.names import LINES, QUARANTINE, SCORES, VECTORS
from geofilter.run.part import Part, PartMaker
from geofilter.run.power import SAMPLE, PowerVerdict, assess, headline
from geofilter.run.score_arrays import score_kinds
from geofilter.run.scoring import APART, scored_apart
from geofilter.run.shard import Outline, unusable_of
from geofilter.run.store import Run
from geofilter.run.tensors import GrowingTensors
from geofilter.run.vectors import ROWS, vector_arrays
from geofilter.together import NotWrittenError, Together

MAX_SOURCES = 200
OTHER_SOURCES = "(other sources)"
"""stands for all sources past the first `MAX_SOURCES`"""


def score(run: Run, banks: Sequence[Bank], scorer: str, paths: Sequence[str]) -> Scored:
    """Score every shard under every bank; write scores and quarantine; return counts and verdicts.

    A row's score is its largest standard score over the banks, each lowered by its `handicap`; its topics are those of
    that bank. The verdicts are on rows that no bank was learnt from. Many rows are scored by processes of their own,
    see `scoring`.

    Args:
        paths: of the run's inputs, as its lines are to name them.

    Raises:
        InputError: no row could be scored, or the run's folder cannot be written.
        RunError: a shard is missing or damaged, or an SAE has other features than the banks.
        BankError: a bank gives a score that is no number.
    """
    shards = list(run.outlines())
    for shard in shards:
        for bank in banks:
            _check_fit(shard, bank)
    total, n_rows = sum(shard.n for shard in shards), sum(shard.span.n_lines for shard in shards)
    first, n_quarantined = _set_aside(run, shards)
    if not total and first is None:
        raise InputError(f"{paths[0]}: --only leaves out every row; nothing is scored")
    if not total and first is not None:
        raise InputError(
            f"{first['file']}: no row can be scored; line {first['line']}: {first['error']} "
            f"(all {n_quarantined} reasons: {run.path / QUARANTINE})"
        )
    maker = PartMaker(banks, scorer, paths, math.ceil(total / SAMPLE))
    parts = scored_apart(run, shards, banks, maker) if total >= APART else _scored_here(run, maker)
    with closing(parts), _Joined.of(run, maker, total) as joined:
        for part in parts:
            joined.add(part)
    verdicts = joined.verdicts()
    return {
        "scorer": scorer,
        "topics": maker.topics,
        "counts": {
            "rows": n_rows,
            "scored": total,
            "quarantined": n_quarantined,
            "passed_over": n_rows - total - n_quarantined,
            "windowed": joined.n_windowed,
            "response_tokens": joined.n_response_tokens,
            "tokens": joined.n_tokens,
        },
        "remarks": dict(joined.remarks),
        "sources": list(joined.sources),
        "reference_scores": _reference(maker.scorers),
        "share_keys": {s.bank.name: s.shares.key for s in maker.scorers if s.shares is not None},
        "power": verdicts,
        "headline": headline(verdicts),
    }


def _check_fit(shard: Outline, bank: Bank) -> None:
    sizes = (bank.d_sae, len(bank.dense))
    if shard.sizes != sizes:
        raise BankError(
            f"bank {bank.name}: for {sizes[0]:,} features of {sizes[1]:,} numbers, but these rows have "
            f"{shard.sizes[0]:,} of {shard.sizes[1]:,}; build it again"
        )


def _set_aside(run: Run, shards: Sequence[Outline]) -> tuple[Quarantined | None, int]:
    """Write the rows that could not be scored; return the first one, and how many there are."""
    first, n = None, 0
    with atomic(run.path / QUARANTINE, run.mode) as handle:
        for record in (record for shard in shards for record in unusable_of(shard.path)):
            first, n = first or record, n + 1
            handle.write(dumps(record))
    return first, n


def _scored_here(run: Run, maker: PartMaker) -> Generator[Part]:
    """The shards of a run, scored one after the other by this process."""
    before = 0
    for shard in run.shards():
        with threadpool_limits(1):  # over products as small as these threads wait for each other
            part = maker.of(shard, before)
        yield part
        before += len(shard.pooled)


class _Joined:
    """The scores of a run's shards as its files, written shard by shard."""

    def __init__(self, maker: PartMaker, lines: IO[bytes], scores: GrowingTensors, vectors: GrowingTensors) -> None:
        self._scorers, self._lines, self._scores, self._vectors = maker.scorers, lines, scores, vectors
        self.sources: dict[str, int] = {}
        """where rows say they come from -> number"""
        self.n_windowed = self.n_response_tokens = self.n_tokens = 0
        self.remarks: Counter[str] = Counter()
        self._style: list[F32] = []
        self._loss: list[F32] = []
        self._standard: list[F64] = []
        self._null: list[list[F64]] = []
        """of rows spaced evenly over the run, on which each bank's verdict is given"""

    @classmethod
    @contextmanager
    def of(cls, run: Run, maker: PartMaker, total: int) -> Iterator[_Joined]:
        """Those of a run; they appear together at the end.

        Args:
            total: scored rows.

        Raises:
            InputError: its folder cannot be written.
        """
        vectors, whole = vector_arrays(maker.content)
        try:
            with Together() as files, ExitStack() as stack:
                lines, scores, about = (
                    stack.enter_context(files.open(run.path / name)) for name in (LINES, SCORES, VECTORS)
                )
                joined = cls(
                    maker,
                    lines,
                    GrowingTensors(scores, score_kinds(len(maker.scorers), run.manifest), total, {}),
                    GrowingTensors(about, vectors, total, whole),
                )
                yield joined
                joined._scores.finish()
                joined._vectors.finish()
        except NotWrittenError as error:
            raise InputError(f"{error.filename}: cannot be written ({error.strerror}); choose another place") from None

    def add(self, part: Part) -> None:
        """Take in the next shard."""
        numbers = np.array([self._number(name) for name in part.sources], np.int32)
        columns = {**part.columns, "source": numbers[part.columns["source"]]}
        self._lines.write(part.lines)
        self._scores.add(columns)
        self._vectors.add({ROWS: part.vectors})
        self.n_windowed += part.n_windowed
        self.n_response_tokens += part.n_response_tokens
        self.n_tokens += int(columns["n_tokens"].sum())
        self.remarks.update(part.remarks)
        self._style.append(part.style)
        self._loss.append(part.loss)
        self._standard.append(part.standard)
        self._null.append(part.null)

    def _number(self, name: str) -> int:
        """Of a source; a new one is entered."""
        known = self.sources
        shown = name if name in known or len(known) < MAX_SOURCES else OTHER_SOURCES
        return known.setdefault(shown, len(known))

    def verdicts(self) -> list[PowerVerdict]:
        """Assess each bank."""
        style, loss = np.concatenate(self._style), np.concatenate(self._loss)
        standard = np.concatenate(self._standard, axis=1)
        return [
            assess(scorer.bank, standard[b], np.concatenate([null[b] for null in self._null]), style, loss)
            for b, scorer in enumerate(self._scorers)
        ]


def _reference(scorers: Sequence[Scorer]) -> list[float]:
    """Scores of ordinary rows, ascending, made as those of any row; they are answers."""
    rows = scorers[0].bank.reference
    shas = [f"reference-{i}" for i in range(len(rows))]
    standard = np.stack([scorer.standard(rows, shas) for scorer in scorers])
    scores = largest([s.bank for s in scorers], standard, np.zeros(len(rows), bool))
    return [round(float(s), 3) for s in np.sort(scores)]
