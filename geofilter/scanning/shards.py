"""From input lines to shards of features: the next shard is made ready while a GPU works on this one."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from geofilter.arrays import digests
from geofilter.bank.bank import Bank
from geofilter.bank.features import Pooled
from geofilter.bank.linear import Shares
from geofilter.bank.scorer import Scorer
from geofilter.config import ScanConfig
from geofilter.encode.reader import FeatureReader, refuse_infinite
from geofilter.encode.shares import TokenShares
from geofilter.encode.tokens import Encoded, encode_rows
from geofilter.errors import InputError
from geofilter.files import Notify
from geofilter.rows.keys import SHAPES
from geofilter.rows.lines import read_lines
from geofilter.rows.records import Rejected, Row, parse_line, source_of
from geofilter.rows.row_error import RowError
from geofilter.rows.style import STYLE, style_features
from geofilter.run.manifest import InputFile
from geofilter.run.shard import Shard, Span, checked_shards, rejected_of
from geofilter.run.shard_tokens import ShardTokens
from geofilter.run.store import Run

SHARD_BYTES = 1 << 20
"""a shard also ends at this many bytes of input, so that long rows do not make a long unit of resume"""
SLICE = 32
"""lines made ready at once while the GPU is busy"""
Progress = Callable[[int, int], None]


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
) -> int:
    """Make every shard that is not there yet, or cannot be believed; return the tokens encoded now.

    Args:
        fingerprint: of the encoding.
        shares: of the banks whose scores are divided among tokens; None to keep nothing token by token.

    Raises:
        InputError: a row cannot be scored, where such rows are an error.
    """
    lines = Lines(files)
    present: dict[Path, int] = {}
    done, rows = 0, sum(f["rows"] for f in files)
    for path, shard, why in checked_shards(run.parts, fingerprint):
        if shard is None or done >= rows:
            telling.notify(f"note: {path}: {why or 'beyond the last row'}; {'it is made again' if why else 'removed'}")
            path.unlink()
            continue
        present[path] = shard.span.n_lines
        done += shard.span.n_lines
        if config.on_error == "fail" and (found := rejected_of(path)):
            raise InputError(_failing(found[0]["file"], found[0]["line"], found[0]["error"]))
    telling.started(rows, done)
    mode = run.mode
    ahead = Ahead(_prepared(config, run, files, lines, present, fingerprint, reader))
    tokens = n_bytes = 0
    divided: TokenShares | None = None
    while ready := ahead.take():
        if config.on_error == "fail" and ready.rejected:
            raise InputError(_failing(ready.rejected[0].file, ready.rejected[0].line, ready.rejected[0].error))
        if shares is not None and divided is None:
            divided = TokenShares(shares, reader().encoder.device)
        tokens, n_bytes = tokens + ready.n_tokens, n_bytes + ready.n_bytes
        telling.expected(round(tokens * (1 + ready.left / max(1, n_bytes))))
        ready.encode(reader(), divided, telling.progress, ahead.step).save(ready.path, mode)
    return tokens


def shares_of(banks: Sequence[Bank], scorer: str) -> list[Shares]:
    """What divides the banks' scores; empty under a scorer whose scores are no sums over features."""
    return [shares for bank in banks if (shares := Scorer(bank, scorer).shares) is not None]


def _failing(file: str, line: int, error: str) -> str:
    return f"{file}, line {line}: {error} (--on-error quarantine sets such rows aside)"


Line = tuple[int, int, bytes]


class Lines:
    """(file, 1-based line, bytes) of everything to scan, in input order; `left` bytes are still to come."""

    def __init__(self, files: Sequence[InputFile]) -> None:
        self.left = sum(info.get("bytes", 0) for info in files)
        self._lines = self._of(files)

    @staticmethod
    def _of(files: Sequence[InputFile]) -> Iterator[Line]:
        for i, info in enumerate(files):
            for number, line in enumerate(itertools.islice(read_lines(Path(info["path"])), info["rows"]), start=1):
                yield i, number, line

    def __iter__(self) -> Iterator[Line]:
        return self

    def __next__(self) -> Line:
        line = next(self._lines)
        self.left -= len(line[2])
        return line


def _next_chunk(lines: Iterator[Line], shard_rows: int) -> list[Line]:
    chunk: list[Line] = []
    size = 0
    for line in lines:
        chunk.append(line)
        size += len(line[2])
        if len(chunk) >= shard_rows or size >= SHARD_BYTES:
            break
    return chunk


@dataclass(slots=True)
class Ready:
    """The rows of a shard, tokenised."""

    path: Path
    span: Span
    n_bytes: int
    """of its input lines"""
    left: int
    """bytes of all input lines behind them"""
    rows: list[tuple[int, Row]] = field(default_factory=list)
    encoded: list[Encoded] = field(default_factory=list)
    style: list[npt.NDArray[np.float32]] = field(default_factory=list)
    remarks: Counter[str] = field(default_factory=Counter)
    rejected: list[Rejected] = field(default_factory=list)

    @property
    def n_tokens(self) -> int:
        """Tokens that the model reads."""
        return sum(len(window.ids) for e in self.encoded for window in e.windows)

    def add(self, lines: Sequence[Line], config: ScanConfig, files: Sequence[InputFile], reader: FeatureReader) -> None:
        """Parse and tokenise some of the shard's lines."""
        parsed = [
            (index, line, parse_line(line, files[index]["path"], number, config.reading))
            for index, number, line in lines
        ]
        usable = [row for _, _, row in parsed if isinstance(row, Row)]
        coded = encode_rows(usable, reader.tokenizer, config.max_tokens, config.system)
        encoded = iter(reader.readable(coded))
        for index, line, row in parsed:
            if row is None:
                continue
            if isinstance(row, Rejected):
                self.rejected.append(row)
                continue
            found = next(encoded)
            if isinstance(found, RowError):
                self.rejected.append(Rejected(row.file, row.line, str(found), line.rstrip(b"\r\n")))
                continue
            self.rows.append((index, row))
            self.encoded.append(found)
            self.remarks.update((*row.remarks, *(["special"] if found.marked else [])))
            self.style.append(style_features(row.response))

    def encode(
        self, reader: FeatureReader, shares: TokenShares | None, progress: Progress, meanwhile: Callable[[], None]
    ) -> Shard:
        """Read the rows' features, and what each token adds to their scores."""
        progress(self.span.n_lines - len(self.rows), 0)
        tokens = None
        if shares is None:
            features = reader.read(self.encoded, progress, meanwhile=meanwhile)
        else:
            features, divided = reader.read_divided(self.encoded, shares, progress, meanwhile)
            tokens = ShardTokens.of(divided, [e.spans for e in self.encoded], shares.keys)
        refuse_infinite(features, [row for _, row in self.rows])
        return Shard(
            file=np.array([i for i, _ in self.rows], np.int32),
            line=np.array([row.line for _, row in self.rows], np.int64),
            sha256=digests(r.sha256 for _, r in self.rows),
            content=digests(r.content_sha256 for _, r in self.rows),
            response_tokens=np.array([e.n_response for e in self.encoded], np.int32),
            windows=np.array([len(e.windows) for e in self.encoded], np.int32),
            style=np.array(self.style, np.float32).reshape(-1, len(STYLE)),
            n_turns=np.array([len(row.turns) for _, row in self.rows], np.int32),
            shape=np.array([SHAPES.index(row.format) for _, row in self.rows], np.int32),
            source=tuple(source_of(row.record) for _, row in self.rows),
            pooled=Pooled.of(features, reader.encoder.d_in),
            span=self.span,
            d_sae=reader.encoder.d_sae,
            remarks=self.remarks,
            rejected=tuple(self.rejected),
            tokens=tokens,
        )


def _prepared(
    config: ScanConfig,
    run: Run,
    files: Sequence[InputFile],
    lines: Lines,
    present: Mapping[Path, int],
    fingerprint: str,
    reader: Callable[[], FeatureReader],
) -> Iterator[Ready | None]:
    """Every shard that is not there yet, made ready; None after each slice of its lines but the last.

    Args:
        present: the shards that are there, and the lines that each covers.
        fingerprint: of the encoding.
    """
    first = 0
    for number in itertools.count():
        path = run.part(number)
        if path in present:
            first += sum(1 for _ in itertools.islice(lines, present[path]))
            continue
        chunk = _next_chunk(lines, config.shard_rows)
        if not chunk:
            return
        size = sum(len(line) for _, _, line in chunk)
        ready = Ready(path, Span(fingerprint, number, first, len(chunk)), size, lines.left)
        first += len(chunk)
        for start in range(0, len(chunk), SLICE):
            if start:
                yield None
            ready.add(chunk[start : start + SLICE], config, files, reader())
        yield ready


class Ahead:
    """Makes the next shard ready while the GPU is busy with this one; on one thread, in small steps.

    A second thread would take turns with the one that feeds the GPU at every operation, and slow it down.
    """

    def __init__(self, prepared: Iterator[Ready | None]) -> None:
        self._prepared = prepared
        self._next: Ready | None = None
        self._failed: Exception | None = None

    def step(self) -> None:
        """One slice of lines more, if the next shard is not ready yet."""
        if self._next is None and self._failed is None:
            try:
                self._next = next(self._prepared, None)
            except Exception as error:  # of the next shard: this one is kept first
                self._failed = error

    def take(self) -> Ready | None:
        """The next shard; None when there is none."""
        if self._failed is not None:
            raise self._failed
        found, self._next = self._next, None
        return found or next(filter(None, self._prepared), None)
