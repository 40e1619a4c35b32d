"""From input lines to rows that the model can read, shard by shard: parsed, rendered and tokenised; without torch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import digests
from geofilter.config import ScanConfig
from geofilter.encode.tokens import Encoded, encode_rows, readable
from geofilter.encode.unprompted import encode_unprompted
from geofilter.rows.keys import SHAPES
from geofilter.rows.pairs import is_preference, rejected_side
from geofilter.rows.reading import Reading
from geofilter.rows.records import Row, Unusable, parse_line, source_of
from geofilter.rows.row_error import RowError
from geofilter.rows.style import STYLE, style_features
from geofilter.run.manifest import InputFile
from geofilter.run.shard import Span
from geofilter.scanning.plan import Line, Lines, Plan, Ranges, Work

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SLICE = 256
"""lines tokenised in one call: what that takes besides its result is many times the text"""


@dataclass(frozen=True, slots=True)
class Job:
    """Which shards are to be made ready, and how."""

    reading: Reading
    max_tokens: int
    system: str
    files: Sequence[InputFile]
    plan: Path
    todo: Ranges
    fingerprint: str
    """of the encoding"""
    with_loss: bool = False
    """make the rows ready without their prompts too"""
    both_sides: bool = False
    """make the rejected answers of preferences ready too"""

    @classmethod
    def of(cls, config: ScanConfig, files: Sequence[InputFile], plan: Path, todo: Ranges, fingerprint: str) -> Job:
        """What a scan asks for, less all that only the model needs."""
        return cls(
            config.reading, config.max_tokens, config.system, files, plan, todo, fingerprint, config.with_loss,
            config.pairs == "difference",
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Ready:
    """The rows of a shard, tokenised, and what else the shard keeps of them; small enough to be sent."""

    span: Span
    n_bytes: int
    """of its input lines"""
    left: int
    """bytes of the lines of the shards that are still to come"""
    encoded: Sequence[Encoded]
    """(n,)"""
    columns: Mapping[str, npt.NDArray[Any]]
    """(n,) or (n, columns), see `Shard`"""
    source: tuple[str, ...]
    """(n,)"""
    remarks: Counter[str]
    unusable: tuple[Unusable, ...]
    alone: Sequence[Encoded | None] = ()
    """(n,) the rows without their prompts, where they were asked for; None of one that cannot be read so"""
    rejected_sides: Sequence[Encoded | None] | None = None
    """(n,) the rows with their rejected answers, None of one that has none to be read; None where they were not asked
    for"""

    @property
    def n_tokens(self) -> int:
        """Tokens that the model reads."""
        return sum(len(window.ids) for e in self.to_read for window in e.windows)

    @property
    def to_read(self) -> list[Encoded]:
        """The rows, and behind all of them those of their rejected answers that there are."""
        return [*self.encoded, *(other for other in self.rejected_sides or () if other is not None)]


def prepared(
    job: Job, tokenizer: Callable[[], PreTrainedTokenizerBase], embedded: Callable[[], int]
) -> Iterator[Ready]:
    """Every shard of a job, made ready.

    Args:
        tokenizer: gives the model's.
        embedded: gives how many tokens it has an embedding for; asked for last, since a model takes long to load.

    Raises:
        InputError, TargetError: a file cannot be read, or the chat template goes over its limits.
        RunError: a file has changed, or the plan is damaged.
    """
    plan, lines = Plan(job.plan), Lines(job.files)
    left = plan.n_bytes(job.todo)
    for work in plan.read(job.todo):
        left -= work.n_bytes
        yield made_ready(job, work, lines.of(work), tokenizer(), embedded, left)


def made_ready(
    job: Job,
    work: Work,
    chunk: Sequence[Line],
    tokenizer: PreTrainedTokenizerBase,
    embedded: Callable[[], int],
    left: int = 0,
) -> Ready:
    """Parse and tokenise the lines of a shard.

    Args:
        embedded: see `prepared`.
        left: see `Ready.left`.

    Raises:
        TargetError: the chat template goes over its limits.
    """
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
    unusable: list[Unusable] = []
    for index, line, row in parsed:
        if row is None:
            continue
        if isinstance(row, Unusable):
            unusable.append(row)
            continue
        if isinstance(one := next(found), RowError):
            unusable.append(Unusable(row.file, row.line, str(one), line.rstrip(b"\r\n")))
            continue
        rows.append((index, row))
        encoded.append(one)
        remarks.update((*row.remarks, *(["special"] if one.marked else [])))
    span = Span(job.fingerprint, work.number, work.first, work.n_lines)
    source = tuple(source_of(row.record) for _, row in rows)
    alone: list[Encoded | None] = []
    for start in range(0, len(rows) if job.with_loss else 0, SLICE):
        here = slice(start, start + SLICE)
        alone += encode_unprompted([row for _, row in rows[here]], encoded[here], tokenizer, job.max_tokens)
    others = _rejected_sides(job, [row for _, row in rows], tokenizer, embedded()) if job.both_sides else None
    for (_, row), other in zip(rows, others or (), strict=False):
        if is_preference(row):
            remarks.update(["one_sided" if other is None else "paired"])
    columns = _columns(rows, encoded)
    return Ready(span, work.n_bytes, left, encoded, columns, source, remarks, tuple(unusable), alone, others)


def _rejected_sides(
    job: Job, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, embedded: int
) -> list[Encoded | None]:
    """The rejected answers of rows, tokenised; None for a row that has none to be read."""
    out: list[Encoded | None] = [None] * len(rows)
    sides: list[tuple[int, Row]] = []
    for i, row in enumerate(rows):
        if is_preference(row):
            with suppress(RowError):
                sides.append((i, rejected_side(row, job.reading)))
    for start in range(0, len(sides), SLICE):
        here = sides[start : start + SLICE]
        coded = encode_rows([row for _, row in here], tokenizer, job.max_tokens, job.system)
        for (i, _), one in zip(here, readable(coded, tokenizer, embedded), strict=True):
            out[i] = None if isinstance(one, RowError) else one
    return out


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
