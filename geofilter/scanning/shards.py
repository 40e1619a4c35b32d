"""From input lines to shards of features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from geofilter.bank.bank import Bank
from geofilter.bank.features import Pooled
from geofilter.bank.linear import Shares
from geofilter.bank.scorer import Scorer
from geofilter.encode.loss import LossReader
from geofilter.encode.reader import FeatureReader, refuse_infinite
from geofilter.encode.shares import TokenShares
from geofilter.errors import InputError
from geofilter.files import Notify, silent
from geofilter.run.manifest import InputFile
from geofilter.run.shard import Shard
from geofilter.run.shard_tokens import ShardTokens
from geofilter.run.store import Run
from geofilter.scanning.ahead import ahead
from geofilter.scanning.present import failing
from geofilter.scanning.ready import Job, Ready, prepared
from geofilter.scanning.writer import Writer

Progress = Callable[[int, int], None]
Write = Callable[[Callable[[], None]], None]
"""does something now, or later"""


@dataclass(frozen=True, slots=True)
class Telling:
    """Who is told what while shards are made."""

    notify: Notify
    started: Progress
    """once: the rows there are, and those that are done already"""
    progress: Progress
    """rows and tokens, after each batch"""
    expected: Callable[[int], None]
    """the tokens of all shards that are made now, judged by those that are ready"""


class Encoder:
    """Makes shards of rows that are ready.

    Args:
        reader: loads model and SAE when it is first called.
        shares: of the banks whose scores are divided among tokens; None to keep nothing token by token.
        fail: rows that cannot be scored are an error.
        progress: told rows and tokens, after each batch.
        loss: loads the whole model when it is called; None to keep no loss of the rows.
    """

    def __init__(
        self,
        files: Sequence[InputFile],
        reader: Callable[[], FeatureReader],
        shares: Sequence[Shares] | None,
        *,
        fail: bool = False,
        progress: Progress = silent,
        loss: Callable[[], LossReader] | None = None,
    ) -> None:
        self._files, self._reader, self._shares, self._loss = files, reader, shares, loss
        self._fail, self._progress = fail, progress
        self._divided: TokenShares | None = None

    def encoded(self, ready: Ready) -> Shard:
        """Read the rows' features, what each token adds to their scores, and their loss.

        Raises:
            InputError: a row cannot be scored, where such rows are an error.
            TargetError: features are not finite, or the whole model is not there.
        """
        if self._fail and ready.unusable:
            first = ready.unusable[0]
            raise InputError(failing(first.file, first.line, first.error))
        reader, tokens = self._reader(), None
        loss = None if self._loss is None else self._loss().both(ready.encoded, ready.alone)
        self._progress(ready.span.n_lines - len(ready.encoded), 0)
        # Both sides of preferences in one go: the model reads the prompt that they share once.
        n, told = len(ready.encoded), _of_rows(self._progress, len(ready.encoded))
        if self._shares is None:
            features = reader.read(ready.to_read, told)
        else:
            self._divided = self._divided or TokenShares(self._shares, reader.encoder.device)
            features, divided = reader.read_divided(ready.to_read, self._divided, told)
            tokens = ShardTokens.of(divided[:n], [e.spans for e in ready.encoded], self._divided.keys)
        sides = None if ready.rejected_sides is None else np.array([s is not None for s in ready.rejected_sides], bool)
        places = list(zip(ready.columns["file"].tolist(), ready.columns["line"].tolist(), strict=True))
        places += [] if sides is None else [places[i] for i in np.flatnonzero(sides)]
        refuse_infinite(features, ((self._files[file]["path"], line) for file, line in places))
        return Shard(
            **ready.columns,
            source=ready.source,
            pooled=Pooled.of(features[:n], reader.encoder.d_in),
            paired=sides,
            rejected_pooled=None if sides is None else Pooled.of(features[n:], reader.encoder.d_in),
            span=ready.span,
            d_sae=reader.encoder.d_sae,
            remarks=ready.remarks,
            unusable=ready.unusable,
            tokens=tokens,
            loss=loss,
        )


def _of_rows(progress: Progress, n: int) -> Progress:
    """Tells of n rows at most: their rejected answers are read with them, and are no rows."""
    left = n

    def told(rows: int, tokens: int) -> None:
        nonlocal left
        rows = min(rows, left)
        left -= rows
        progress(rows, tokens)

    return told


def encode_shards(
    job: Job,
    run: Run,
    encoder: Encoder,
    reader: Callable[[], FeatureReader],
    telling: Telling,
    apart: Path | None = None,
) -> int:
    """Make the shards of a job; return the tokens encoded.

    Args:
        reader: loads model and SAE when it is first called.
        apart: folder of the model: rows are tokenised in a process of its own and shards written behind, so that
            neither keeps a GPU waiting. None where the model computes on the CPU, which all of it would share.

    Raises:
        InputError: a file cannot be read, or a row cannot be scored, where such rows are an error.
        RunError: a file has changed, or the process that tokenises is killed.
    """
    mode, tokens, n_bytes = run.mode, 0, 0
    with _way(job, reader, apart if job.todo else None) as (shards, write):
        for ready in shards:
            tokens, n_bytes = tokens + ready.n_tokens, n_bytes + ready.n_bytes
            telling.expected(round(tokens * (1 + ready.left / max(1, n_bytes))))
            write(partial(run.keep, encoder.encoded(ready), mode))
    return tokens


def shares_of(banks: Sequence[Bank], scorer: str) -> list[Shares]:
    """What divides the banks' scores; empty under a scorer whose scores are no sums over features."""
    return [shares for bank in banks if (shares := Scorer(bank, scorer).shares) is not None]


@contextmanager
def _way(job: Job, reader: Callable[[], FeatureReader], apart: Path | None) -> Iterator[tuple[Iterator[Ready], Write]]:
    """What gives the shards of a job made ready, and what has them written; see `encode_shards`."""
    if apart is None:
        yield prepared(job, lambda: reader().tokenizer, lambda: reader().embedded), lambda work: work()
        return
    with ahead(job, apart) as shards, Writer() as write:
        yield shards(lambda: reader().embedded), write
