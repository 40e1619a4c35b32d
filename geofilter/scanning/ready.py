"""From input lines to rows that the model can read, shard by shard: parsed, rendered and tokenised; without torch."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import digests
from geofilter.config import ScanConfig
from geofilter.encode.tokens import Encoded, encode_rows, readable
from geofilter.rows.keys import SHAPES
from geofilter.rows.lines import read_lines
from geofilter.rows.reading import Reading
from geofilter.rows.records import Rejected, Row, parse_line, source_of
from geofilter.rows.row_error import RowError
from geofilter.rows.style import STYLE, style_features
from geofilter.run.manifest import InputFile
from geofilter.run.shard import Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHARD_BYTES = 1 << 20
"""a shard also ends at this many bytes of input, so that long rows do not make a long unit of resume"""
SLICE = 256
"""lines tokenised in one call: what that takes besides its result is many times the text"""

Line = tuple[int, int, bytes]
"""position of its file, 1-based number, and the bytes"""


@dataclass(frozen=True, slots=True)
class Job:
    """Which shards are to be made ready, and how."""

    reading: Reading
    shard_rows: int
    max_tokens: int
    system: str
    files: Sequence[InputFile]
    present: Mapping[int, int]
    """the shards that are there, and the lines that each covers"""
    fingerprint: str
    """of the encoding"""

    @classmethod
    def of(cls, config: ScanConfig, files: Sequence[InputFile], present: Mapping[int, int], fingerprint: str) -> Job:
        """What a scan asks for, less all that only the model needs."""
        return cls(config.reading, config.shard_rows, config.max_tokens, config.system, files, present, fingerprint)


@dataclass(frozen=True, slots=True)
class Ready:
    """The rows of a shard, tokenised, and what else the shard keeps of them; small enough to be sent."""

    span: Span
    n_bytes: int
    """of its input lines"""
    left: int
    """bytes of all input lines behind them"""
    encoded: Sequence[Encoded]
    """(n,)"""
    columns: Mapping[str, npt.NDArray[Any]]
    """(n,) or (n, columns), see `Shard`"""
    source: tuple[str, ...]
    """(n,)"""
    remarks: Counter[str]
    rejected: tuple[Rejected, ...]

    @property
    def n_tokens(self) -> int:
        """Tokens that the model reads."""
        return sum(len(window.ids) for e in self.encoded for window in e.windows)


def prepared(
    job: Job, tokenizer: Callable[[], PreTrainedTokenizerBase], embedded: Callable[[], int]
) -> Iterator[Ready]:
    """Every shard that is not there yet, made ready.

    Args:
        tokenizer: gives the model's.
        embedded: gives how many tokens it has an embedding for; asked for last, since a model takes long to load.

    Raises:
        InputError, TargetError: a file cannot be read, or the chat template goes over its limits.
    """
    lines, first = _Lines(job.files), 0
    for number in itertools.count():
        if number in job.present:
            first += sum(1 for _ in itertools.islice(lines, job.present[number]))
            continue
        chunk = _next_chunk(lines, job.shard_rows)
        if not chunk:
            return
        span = Span(job.fingerprint, number, first, len(chunk))
        first += len(chunk)
        yield _ready(job, span, chunk, lines.left, tokenizer(), embedded)


class _Lines:
    """Everything to scan, in input order; `left` bytes are still to come."""

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


def _ready(
    job: Job,
    span: Span,
    chunk: Sequence[Line],
    left: int,
    tokenizer: PreTrainedTokenizerBase,
    embedded: Callable[[], int],
) -> Ready:
    """Parse and tokenise the lines of a shard."""
    parsed = [
        (index, line, parse_line(line, job.files[index]["path"], number, job.reading)) for index, number, line in chunk
    ]
    usable = [row for _, _, row in parsed if isinstance(row, Row)]
    coded: list[Encoded | RowError] = []
    for start in range(0, len(usable), SLICE):
        coded += encode_rows(usable[start : start + SLICE], tokenizer, job.max_tokens, job.system)
    found = iter(readable(coded, tokenizer, embedded()))
    rows: list[tuple[int, Row]] = []
    encoded: list[Encoded] = []
    remarks: Counter[str] = Counter()
    rejected: list[Rejected] = []
    for index, line, row in parsed:
        if row is None:
            continue
        if isinstance(row, Rejected):
            rejected.append(row)
            continue
        if isinstance(one := next(found), RowError):
            rejected.append(Rejected(row.file, row.line, str(one), line.rstrip(b"\r\n")))
            continue
        rows.append((index, row))
        encoded.append(one)
        remarks.update((*row.remarks, *(["special"] if one.marked else [])))
    size = sum(len(line) for _, _, line in chunk)
    source = tuple(source_of(row.record) for _, row in rows)
    return Ready(span, size, left, encoded, _columns(rows, encoded), source, remarks, tuple(rejected))


def _columns(rows: Sequence[tuple[int, Row]], encoded: Sequence[Encoded]) -> dict[str, npt.NDArray[Any]]:
    style = [style_features(row.response) for _, row in rows]
    return {
        "file": np.array([i for i, _ in rows], np.int32),
        "line": np.array([row.line for _, row in rows], np.int64),
        "sha256": digests(row.sha256 for _, row in rows),
        "content": digests(row.content_sha256 for _, row in rows),
        "response_tokens": np.array([e.n_response for e in encoded], np.int32),
        "windows": np.array([len(e.windows) for e in encoded], np.int32),
        "style": np.array(style, np.float32).reshape(-1, len(STYLE)),
        "n_turns": np.array([len(row.turns) for _, row in rows], np.int32),
        "shape": np.array([SHAPES.index(row.format) for _, row in rows], np.int32),
    }
