"""The text an SAE is trained on: rows of any shape as windows of tokens, kept on disk and read from there."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from geofilter.encode.model import ResidualModel
from geofilter.encode.tokens import Window, encode_rows
from geofilter.errors import InputError
from geofilter.files import from_json, own_bytes, silent, write_json
from geofilter.rows.reading import Reading
from geofilter.rows.records import Row, Unusable, read_rows
from geofilter.rows.row_error import RowError

HELD_OUT_SHARE = 20
"""one row in so many is held out, by its hash, and never trained on"""
HELD_OUT_TOKENS = 1 << 15
"""kept of them; further held-out rows are only counted"""
_BLOCK = 32
"""rows of a file that are read before it is the next file's turn"""
_REASONS = 100
"""kept at most, of rows that cannot be used"""
_PARTS = ("train", "held_out")
_ABOUT = "corpus.json"


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """Windows of tokens, in files that are mapped into memory."""

    ids: npt.NDArray[np.uint32]
    """(n_tokens,) of all windows, one behind the other"""
    mask: npt.NDArray[np.bool_]
    """(n_tokens,) True for the tokens that are trained on"""
    ends: npt.NDArray[np.int64]
    """(n_windows + 1,) where each window begins, and the last one ends"""

    def __len__(self) -> int:
        return len(self.ends) - 1

    @property
    def counts(self) -> npt.NDArray[np.int64]:
        """(n_windows,) tokens of each that are trained on."""
        before = np.concatenate([[0], np.cumsum(self.mask, dtype=np.int64)])
        found: npt.NDArray[np.int64] = np.diff(before[self.ends])
        return found

    def window(self, number: int, most: int | None = None) -> Window:
        """One of them; its first `most` tokens."""
        start, end = int(self.ends[number]), int(self.ends[number + 1])
        here = slice(start, end if most is None else min(end, start + most))
        return Window(tuple(self.ids[here].tolist()), tuple(self.mask[here].tolist()))


@dataclass(slots=True)
class Read:
    """What was read of the data."""

    rows: int = 0
    """that are trained on"""
    held_out_rows: int = 0
    tokens: int = 0
    """distinct ones that are trained on"""
    held_out_tokens: int = 0
    """that are kept for measuring"""
    unusable: Counter[str] = field(default_factory=Counter)
    """rows that cannot be used, by reason"""
    first: dict[str, str] = field(default_factory=dict)
    """reason -> file and line of the first such row"""
    whole: bool = True
    """whether the data were read to their ends; less of them was enough otherwise"""


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """The windows that are trained on, those that are held out, and what was read."""

    train: Windows
    held_out: Windows
    read: Read


def rows_in_turn(paths: Sequence[Path], reading: Reading) -> Iterator[Row | Unusable]:
    """Rows of several files, some of each in turn, so that the first ones are of all files."""
    left = [read_rows(path, reading=reading) for path in paths]
    while left:
        for rows in [*left]:
            found = list(itertools.islice(rows, _BLOCK))
            yield from found
            if len(found) < _BLOCK:
                left.remove(rows)


def is_held_out(sha256: str) -> bool:
    """Whether a row is never trained on, by its hash."""
    return int(sha256[:8], 16) % HELD_OUT_SHARE == 0


def open_corpus(folder: Path) -> Corpus | None:
    """The corpus that `make_corpus` has written into a folder; None where it is not whole."""
    try:
        about = from_json(own_bytes(folder / _ABOUT))
        windows = [_mapped(folder, name, about["windows"][name]) for name in _PARTS]
        read = Read(**{**about["read"], "unusable": Counter(about["read"]["unusable"])})
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return Corpus(windows[0], windows[1], read)


def _mapped(folder: Path, name: str, counts: Sequence[int]) -> Windows:
    n_tokens, n_windows = counts
    files = [folder / f"{name}.{part}" for part in ("ids", "mask", "ends")]
    for path, size in zip(files, (4 * n_tokens, n_tokens, 8 * (n_windows + 1)), strict=True):
        if path.stat().st_size != size:
            raise ValueError(f"{path} is not whole")
    if not n_tokens:
        return Windows(np.zeros(0, np.uint32), np.zeros(0, np.bool_), np.zeros(1, np.int64))
    return Windows(
        np.memmap(files[0], np.uint32, "r"), np.memmap(files[1], np.bool_, "r"), np.fromfile(files[2], np.int64)
    )


def make_corpus(
    rows: Iterator[Row | Unusable],
    model: ResidualModel,
    folder: Path,
    wanted: int,
    max_tokens: int,
    system: str,
    *,
    held_out: Callable[[str], bool] = is_held_out,
    told: Callable[[int], None] = silent,
) -> Corpus:
    """Tokenise rows until there are enough tokens, and write them into a folder.

    Args:
        wanted: tokens that are trained on, without the held-out ones.
        held_out: whether a row is, by its hash.
        told: the tokens there are, after each batch.

    Raises:
        InputError: a file cannot be read, or the folder cannot be written.
        TargetError: the chat template takes too long.
    """
    read = Read()
    try:
        with ExitStack() as opened:
            parts = {name: _Writer.open(folder, name, opened) for name in _PARTS}
            while read.tokens < wanted and (batch := list(itertools.islice(rows, 2 * _BLOCK))):
                _add(batch, model, parts, read, max_tokens, system, held_out)
                told(min(read.tokens, wanted))
            read.whole = read.tokens < wanted or next(rows, None) is None
            for part in parts.values():
                part.finish()
        counts = {name: [part.n_tokens, part.n_windows] for name, part in parts.items()}
        write_json(folder / _ABOUT, {"read": _plain(read), "windows": counts})
    except OSError as error:
        raise InputError(
            f"{folder}: cannot be written ({error.strerror}); free some space, or give another --out"
        ) from None
    corpus = open_corpus(folder)
    assert corpus is not None
    return corpus


def _plain(read: Read) -> dict[str, Any]:
    return {name: getattr(read, name) for name in Read.__slots__} | {"unusable": dict(read.unusable)}


def _add(
    batch: Sequence[Row | Unusable],
    model: ResidualModel,
    parts: dict[str, _Writer],
    read: Read,
    max_tokens: int,
    system: str,
    held_out: Callable[[str], bool],
) -> None:
    rows = [row for row in batch if isinstance(row, Row)]
    coded = iter(encode_rows(rows, model.tokenizer, max_tokens, system, besides=True))
    for row in batch:
        if isinstance(row, Unusable):
            _unusable(read, row, row.error)
            continue
        found = next(coded)
        wrong = found if isinstance(found, RowError) else model.unknown_token(found)
        if wrong is not None or isinstance(found, RowError):
            _unusable(read, row, str(wrong))
        elif not held_out(row.sha256):
            read.rows += 1
            read.tokens += found.n_response
            parts["train"].add(found.windows)
        else:
            read.held_out_rows += 1
            if read.held_out_tokens < HELD_OUT_TOKENS:
                read.held_out_tokens += found.n_response
                parts["held_out"].add(found.windows)


def _unusable(read: Read, row: Row | Unusable, reason: str) -> None:
    if reason not in read.unusable and len(read.unusable) >= _REASONS:
        reason = "other reasons"
    read.unusable[reason] += 1
    read.first.setdefault(reason, f"{row.file}, line {row.line}")


class _Writer:
    """Writes the windows of one part of a corpus."""

    def __init__(self, ids: IO[bytes], mask: IO[bytes], ends: Path) -> None:
        self._ids, self._mask, self._place = ids, mask, ends
        self._ends = [0]

    @classmethod
    def open(cls, folder: Path, name: str, opened: ExitStack) -> _Writer:
        """New files in a folder."""
        ids, mask = (opened.enter_context((folder / f"{name}.{part}").open("wb")) for part in ("ids", "mask"))
        return cls(ids, mask, folder / f"{name}.ends")

    def add(self, windows: Sequence[Window]) -> None:
        """Write windows behind those there are."""
        for window in windows:
            self._ids.write(np.array(window.ids, np.uint32).tobytes())
            self._mask.write(np.array(window.mask, np.bool_).tobytes())
            self._ends.append(self._ends[-1] + len(window.ids))

    def finish(self) -> None:
        """Write what is still to be written."""
        self._ids.flush()
        self._mask.flush()
        self._place.write_bytes(np.array(self._ends, np.int64).tobytes())

    @property
    def n_tokens(self) -> int:
        return self._ends[-1]

    @property
    def n_windows(self) -> int:
        return len(self._ends) - 1
