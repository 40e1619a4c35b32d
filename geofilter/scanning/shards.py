"""From input lines to shards of features."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from geofilter.bank.bank import Bank
from geofilter.bank.features import Pooled
from geofilter.bank.linear import Shares
from geofilter.bank.scorer import Scorer
from geofilter.config import ScanConfig
from geofilter.encode.reader import FeatureReader, refuse_infinite
from geofilter.encode.shares import TokenShares
from geofilter.errors import InputError
from geofilter.files import Notify
from geofilter.run.manifest import InputFile
from geofilter.run.shard import Shard, checked_shards, rejected_of
from geofilter.run.shard_tokens import ShardTokens
from geofilter.run.store import Run
from geofilter.scanning.ahead import ahead
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


def encode_shards(
    config: ScanConfig,
    run: Run,
    files: Sequence[InputFile],
    fingerprint: str,
    reader: Callable[[], FeatureReader],
    shares: Sequence[Shares] | None,
    telling: Telling,
    apart: Path | None = None,
) -> int:
    """Make every shard that is not there yet, or cannot be believed; return the tokens encoded now.

    Args:
        fingerprint: of the encoding.
        reader: loads model and SAE when it is first called.
        shares: of the banks whose scores are divided among tokens; None to keep nothing token by token.
        apart: folder of the model: rows are tokenised in a process of its own and shards written behind, so that
            neither keeps a GPU waiting. None where the model computes on the CPU, which all of it would share.

    Raises:
        InputError: a row cannot be scored, where such rows are an error.
        RunError: the process that tokenises is killed.
    """
    present: dict[int, int] = {}
    done, rows = 0, sum(f["rows"] for f in files)
    for path, shard, why in checked_shards(run.parts, fingerprint):
        if shard is None or done >= rows:
            telling.notify(f"note: {path}: {why or 'beyond the last row'}; {'it is made again' if why else 'removed'}")
            run.discard(path)
            continue
        present[shard.span.number] = shard.span.n_lines
        done += shard.span.n_lines
        if config.on_error == "fail" and (found := rejected_of(path)):
            raise InputError(_failing(found[0]["file"], found[0]["line"], found[0]["error"]))
    telling.started(rows, done)
    mode = run.mode
    tokens = n_bytes = 0
    divided: TokenShares | None = None
    job = Job.of(config, files, present, fingerprint)
    with _way(job, reader, apart if done < rows else None) as (shards, write):
        for ready in shards:
            if config.on_error == "fail" and ready.rejected:
                raise InputError(_failing(ready.rejected[0].file, ready.rejected[0].line, ready.rejected[0].error))
            if shares is not None and divided is None:
                divided = TokenShares(shares, reader().encoder.device)
            tokens, n_bytes = tokens + ready.n_tokens, n_bytes + ready.n_bytes
            telling.expected(round(tokens * (1 + ready.left / max(1, n_bytes))))
            shard = _encoded(ready, files, reader(), divided, telling.progress)
            write(partial(run.keep, shard, mode))
    return tokens


def shares_of(banks: Sequence[Bank], scorer: str) -> list[Shares]:
    """What divides the banks' scores; empty under a scorer whose scores are no sums over features."""
    return [shares for bank in banks if (shares := Scorer(bank, scorer).shares) is not None]


def _failing(file: str, line: int, error: str) -> str:
    return f"{file}, line {line}: {error} (--on-error quarantine sets such rows aside)"


@contextmanager
def _way(job: Job, reader: Callable[[], FeatureReader], apart: Path | None) -> Iterator[tuple[Iterator[Ready], Write]]:
    """What gives the shards of a job made ready, and what has them written; see `encode_shards`."""
    if apart is None:
        yield prepared(job, lambda: reader().tokenizer, lambda: reader().embedded), lambda work: work()
        return
    with ahead(job, apart) as shards, Writer() as write:
        yield shards(lambda: reader().embedded), write


def _encoded(
    ready: Ready, files: Sequence[InputFile], reader: FeatureReader, shares: TokenShares | None, progress: Progress
) -> Shard:
    """Read the rows' features, and what each token adds to their scores.

    Raises:
        TargetError: features are not finite.
    """
    progress(ready.span.n_lines - len(ready.encoded), 0)
    tokens = None
    if shares is None:
        features = reader.read(ready.encoded, progress)
    else:
        features, divided = reader.read_divided(ready.encoded, shares, progress)
        tokens = ShardTokens.of(divided, [e.spans for e in ready.encoded], shares.keys)
    where = zip(ready.columns["file"].tolist(), ready.columns["line"].tolist(), strict=True)
    refuse_infinite(features, ((files[file]["path"], line) for file, line in where))
    return Shard(
        **ready.columns,
        source=ready.source,
        pooled=Pooled.of(features, reader.encoder.d_in),
        span=ready.span,
        d_sae=reader.encoder.d_sae,
        remarks=ready.remarks,
        rejected=ready.rejected,
        tokens=tokens,
    )
