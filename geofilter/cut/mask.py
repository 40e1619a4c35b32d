"""What a fine-tuning loss should leave out of rows that stay: the sentences by which a row scores above a limit.

Of every kept row above the limit the sentences that add most to its score are left out, the largest share first, until
the rest comes to the limit. The shares of tokens are those that the scan has stored; no model is needed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol, TypedDict

import numpy as np

from geofilter.arrays import F32, I32, Bools, Positions
from geofilter.cut.cut import Selection
from geofilter.cut.places import refuse_beside
from geofilter.errors import InputError, RunError
from geofilter.files import dumps
from geofilter.rows.located import Located, located, pointer
from geofilter.rows.records import Row, Unusable, parse_line, row_sha256
from geofilter.run.marks import RowMarks, marks_of
from geofilter.run.rows import lines_of
from geofilter.run.score_arrays import rows_of_files
from geofilter.run.store import Run

ABOVE = 1.5
"""score down to which sentences are left out, in standard deviations of ordinary chat"""
AT_ONCE = 512
"""rows whose marks are read, and that are tokenised, together"""
_NONE: dict[str, Any] = {"spans": [], "tokens": [], "ids": [], "n_tokens": None, "tokenizer": None}
"""what the line of a row says of which nothing is left out"""
_END = re.compile(
    r"(?<![.!?\u2026])[.!?\u2026]++[\"'\u201d\u2019)\]*_]*+\s++|[\u3002\uff01\uff1f]+[\u300d\u300f\u201d\u2019\uff09]*\s*|\n+"
)


class RowInTokens(Protocol):
    """A row as the target reads it."""

    @property
    def ids(self) -> Sequence[int]:
        """(n,) of its tokens."""

    @property
    def mask(self) -> Sequence[bool]:
        """(n,) which of them are response tokens."""

    @property
    def spans(self) -> I32:
        """(responses, 2) where each of these stands in the characters of `Row.response`."""


Encode = Callable[[Sequence[Row]], Sequence[RowInTokens]]


class MaskReport(TypedDict):
    """What a mask leaves out of the kept rows."""

    file: str
    above: float
    rows: int
    """kept rows of which something is left out"""
    tokens: int
    """response tokens that are left out, of those that were read"""
    of: int
    """response tokens of the kept rows that were read"""
    tokenizer: str | None
    """which one the positions of tokens belong to; None where there are none"""


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A mask that is to be written beside a cut.

    Args:
        path: of the file.
        above: the limit, in units of the score.
        encode: tokenises rows as the scan did; None where the target's tokenizer is not at hand.
        tokenizer: what that is called.

    Raises:
        InputError: the limit is no number.
    """

    path: Path
    above: float = ABOVE
    encode: Encode | None = None
    tokenizer: str | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.above):
            raise InputError(f"--mask-above {self.above}: is no score; give a number, {ABOVE} for instance")

    def with_tokens(self, encode: Encode, tokenizer: str) -> Mask:
        """The same with positions of tokens."""
        return replace(self, encode=encode, tokenizer=tokenizer)

    def refuse(self, run: Run, out: Path | None, removed: Path | None) -> None:
        """Refuse a run without token shares, and a place that cannot be written, before anything is.

        Args:
            out, removed: where the cut writes, see `places.planned`.

        Raises:
            RunError: the run has no shares.
            InputError: the place is an input, an output of the cut, or cannot be written.
        """
        manifest = run.manifest
        if not manifest["encoding"].get("token_shares"):
            raise RunError(
                f"{run.called}: scanned with --no-token-shares, so it is not known what of a row its score comes from; "
                "scan again without it, then filter with --mask"
            )
        if not manifest["share_keys"]:
            raise RunError(
                f"{run.called}: a score by --scorer {manifest['scorer']} is not made of parts of a row; scan again "
                "with the default scorer, then filter with --mask"
            )
        inputs = [Path(info["path"]) for info in manifest["data"]]
        refuse_beside("--mask", self.path, inputs, out, removed, run.path)

    def write(self, selection: Selection, handle: IO[bytes]) -> MaskReport:
        """Write a line for each kept row of all inputs, in the order of the kept files.

        Raises:
            RunError: an input has changed since the scan, or no shares are stored under the bank of a row's score.
        """
        run, columns = selection.run, selection.columns
        high = columns["score"].where(lambda rows: rows > self.above) & ~selection.removed
        tokens = columns["n_tokens"].whole()
        done: MaskReport = {
            "file": str(self.path), "above": self.above, "rows": 0, "tokens": 0,
            "of": int(tokens[~selection.removed].sum()), "tokenizer": self.tokenizer,
        }  # fmt: skip
        for index, rows in enumerate(rows_of_files(columns["file"], len(run.manifest["data"]))):
            kept = self._kept(selection, index, rows)
            while some := list(islice(kept, AT_ONCE)):
                for line, left in self._lines(selection, some, high):
                    handle.write(dumps(line))
                    done["rows"] += bool(left)
                    done["tokens"] += left
        return done

    @staticmethod
    def _kept(selection: Selection, index: int, scored: slice) -> Iterator[_Kept]:
        """The kept rows of an input.

        Args:
            scored: where its scored rows stand among all.
        """
        info = selection.run.manifest["data"][index]
        kept, position = np.zeros(info["rows"], bool), np.full(info["rows"], -1)
        kept[selection.kept(index)] = True
        for here, numbers in selection.columns["line"].pieces(scored.start, scored.stop):
            position[numbers - 1] = np.arange(here.start, here.stop)
        for number, raw in enumerate(islice(lines_of(info["path"]), info["rows"]), start=1):
            if kept[number - 1]:
                at = int(position[number - 1])
                yield _Kept(info["path"], number, raw, None if at < 0 else at)

    def _lines(self, selection: Selection, some: Sequence[_Kept], high: Bools) -> list[tuple[dict[str, Any], int]]:
        """The lines of some kept rows, and how many tokens of each are left out.

        Args:
            high: (scored rows,) those that something is left out of.

        Raises:
            RunError: one is not the row that was scored.
        """
        run = selection.run
        at = [k.position for k in some if k.position is not None]
        low, stop = (at[0], at[-1] + 1) if at else (0, 0)
        scores, stored = (selection.columns[name].read(low, stop) for name in ("score", "sha256"))
        marks = marks_of(run, [p for p in at if high[p]])
        masked: list[_Masked] = []
        lines = []
        for k in some:
            line: dict[str, Any] = {"file": k.file, "line": k.line, "sha256": row_sha256(k.raw), "score": None, **_NONE}
            left = 0
            if k.position is not None:
                line["score"] = round(float(scores[k.position - low]), 4)
                row = parse_line(k.raw, k.file, k.line, run.reading) if k.position in marks else None
                if line["sha256"] != stored[k.position - low].tobytes().hex() or isinstance(row, Unusable):
                    raise RunError(f"{k.file}, line {k.line}: has changed since the scan; scan it again")
                if row is not None:
                    out = _LeftOut.of(row, marks[k.position], float(scores[k.position - low]) - self.above)
                    pieces, left = list(out.pieces()), out.n_tokens
                    line["spans"] = list(_spans(row.response, pieces, located(row, run.reading, pieces)))
                    masked.append(_Masked(line, row, out))
            lines.append((line, left))
        self._number(masked)
        return lines

    def _number(self, masked: Sequence[_Masked]) -> None:
        """Put positions of tokens into the lines of rows of which something is left out."""
        if self.encode is None:
            for of in masked:
                of.line.update(tokens=None, ids=None)
            return
        for of, found in zip(masked, self.encode([m.row for m in masked]), strict=True):
            at = np.flatnonzero(found.mask)[of.out.has(found.spans)].tolist()
            of.line.update(
                tokens=at, ids=[found.ids[p] for p in at], n_tokens=len(found.ids), tokenizer=self.tokenizer
            )  # fmt: skip


class _Kept(NamedTuple):
    """A kept row, as it stands in its input."""

    file: str
    line: int
    raw: bytes
    position: int | None
    """among the scored rows; None of one that --only has passed over"""


@dataclass(frozen=True, slots=True, eq=False)
class _LeftOut:
    """The sentences of a response that are left out."""

    ends: Positions
    """(n,) where each sentence and the white space behind it ends"""
    gone: Bools
    """(n,)"""
    n_tokens: int
    """that were read, in them"""

    @classmethod
    def of(cls, row: Row, marks: RowMarks, excess: float) -> _LeftOut:
        """Of a row that scores above the limit by an excess.

        Raises:
            RunError: no shares are stored under its bank.
        """
        if marks.share is None:
            raise RunError(
                f"{row.file}, line {row.line}: the scan has stored no token shares under the bank of its score; scan "
                "again with this bank (--bank), then filter with --mask"
            )
        ends = np.array(list(sentence_ends(row.response)), np.int64)
        of = _sentence(ends, marks.start, marks.end)
        gone = largest_until(marks.share, of, len(ends), excess)
        return cls(ends, gone, int(gone[of].sum()))

    def has(self, spans: I32) -> Bools:
        """Which tokens (n,) with these spans (n, 2) are left out."""
        found: Bools = self.gone[_sentence(self.ends, spans[:, 0], spans[:, 1])]
        return found

    def pieces(self) -> Iterator[tuple[int, int]]:
        """Start and end of what is left out; sentences that follow each other are one piece."""
        start = 0
        for i, end in enumerate(self.ends.tolist()):
            if not self.gone[i]:
                start = end
            elif i + 1 == len(self.gone) or not self.gone[i + 1]:
                yield start, end


class _Masked(NamedTuple):
    """The line of a row of which something is left out."""

    line: dict[str, Any]
    row: Row
    out: _LeftOut


def sentence_ends(text: str) -> Iterator[int]:
    """Where the sentences of a text end, the white space behind them included; a line break ends one too."""
    end = 0
    for found in _END.finditer(text):
        end = found.end()
        yield end
    if end < len(text):
        yield len(text)


def _sentence(ends: Positions, start: I32, end: I32) -> Positions:
    """(n,) the sentence of each token: that of its last character, since many begin with the space before a word."""
    last = np.maximum(start, end - 1)
    found: Positions = np.minimum(np.searchsorted(ends, last, side="right"), len(ends) - 1)
    return found


def largest_until(share: F32, of: Positions, n: int, excess: float) -> Bools:
    """Which of n sentences (n,) are left out: the largest shares first, none below 0, until they come to an excess.

    Args:
        share: (tokens,) of the score.
        of: (tokens,) the sentence of each.
    """
    total = np.bincount(of, share, n)
    order = np.argsort(-total, kind="stable")
    before = np.concatenate([[0.0], np.cumsum(total[order])])[:n]
    gone = np.zeros(n, bool)
    gone[order[(before < excess) & (total[order] > 0)]] = True
    return gone


def _spans(text: str, pieces: Iterable[tuple[int, int]], places: Sequence[Located]) -> Iterator[dict[str, Any]]:
    """What is left out, without the white space around it, field by field.

    What stands in no field as it is has no field; its characters are those of the response.
    """
    for low, high in pieces:
        at = low
        for place in [p for p in places if p.low < high and p.high > low]:
            start, end = max(at, place.low), min(high, place.high)
            yield from _span(text, at, start, None, 0)
            yield from _span(text, start, end, pointer(place.field), place.start - place.low)
            at = end
        yield from _span(text, at, high, None, 0)


def _span(text: str, low: int, high: int, field: str | None, shift: int) -> Iterator[dict[str, Any]]:
    said = text[low:high]
    low += len(said) - len(said.lstrip())
    if said := said.strip():
        yield {"field": field, "start": low + shift, "end": low + shift + len(said), "text": said}
