"""Which words of a row its score comes from, as the scan has stored it. No model is needed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import F32, F64, I32
from geofilter.errors import RunError
from geofilter.run.manifest import Manifest
from geofilter.run.names import FEATURES
from geofilter.run.shard import Span, read_some
from geofilter.run.shard_tokens import READ, rows_of
from geofilter.run.store import Run

Mark = tuple[int, int, float]
"""start and end in characters of `Row.response`, and the share of the score"""
DIGITS = 4


@dataclass(frozen=True, slots=True, eq=False)
class RowMarks:
    """The tokens of a row's response that were read."""

    start: I32
    """(n,) in characters of `Row.response`"""
    end: I32
    share: F32 | None
    """(n,) of the row's score; None where the scan has not stored it under this bank"""

    def spans(self, most: int | None = None) -> list[Mark]:
        """The shares by place, ascending, without those of 0; tokens that only together make a character are one.

        Args:
            most: leave out what stands behind so many characters.
        """
        return [] if self.share is None else spans_of(self.start, self.end, self.share, most)


def spans_of(start: I32, end: I32, share: F32 | F64, most: int | None = None) -> list[Mark]:
    """See `RowMarks.spans`; (n,) each."""
    order = np.argsort(start, kind="stable")
    if most is not None:
        order = order[start[order] < most]
        end = np.minimum(end, most)
    out: list[list[Any]] = []
    for low, high, part in zip(start[order].tolist(), end[order].tolist(), share[order].tolist(), strict=True):
        if out and low < out[-1][1]:
            out[-1][1] = max(out[-1][1], high)
            out[-1][2] += part
        elif high > low:
            out.append([low, high, part])
    return [(low, high, rounded) for low, high, part in out if (rounded := round(part, DIGITS))]


def marks_of(
    run: Run,
    positions: Sequence[int],
    bank_names: Sequence[str] | None = None,
) -> dict[int, RowMarks]:
    """The tokens of some rows and their shares; nothing where the scan was told --no-token-shares.

    Only the shards that hold these rows are read, and of those only the rows around them.

    Args:
        positions: 0-based, among the scored rows.
        bank_names: of each row the bank whose score is meant; by default the one that gave the row its score.

    Raises:
        RunError: a shard is missing or damaged.
    """
    manifest = run.manifest
    if not manifest["encoding"].get("token_shares") or not len(positions):
        return {}
    columns, ascending = run.columns(["bank", "file", "line"]), np.unique(positions)
    own = [manifest["banks"][b]["name"] for b in columns["bank"].take(np.array(positions, np.int64)).tolist()]
    bank_of = dict(zip(positions, bank_names or own, strict=True))
    shards = _Shards(run, manifest)
    stand = zip(*(columns[name].take(ascending).tolist() for name in ("file", "line")), strict=True)
    places = dict(zip(ascending.tolist(), stand, strict=True))
    by_shard: dict[int, list[int]] = defaultdict(list)
    for position, place in places.items():
        by_shard[shards.holding(*place)].append(position)
    out: dict[int, RowMarks] = {}
    for number, here in by_shard.items():
        keys, found = shards.rows(number, [places[position] for position in here])
        for position, (start, end, shares) in zip(here, found, strict=True):
            wanted = manifest["share_keys"].get(bank_of[position], "")
            share = shares[keys.index(wanted)] if wanted in keys else None
            out[position] = RowMarks(start, end, share)
    return {position: out[position] for position in positions}


class _Shards:
    """The shards of a run, each opened when it is asked for; every array that is read is held against its hash."""

    def __init__(self, run: Run, manifest: Manifest) -> None:
        names = [name for name in manifest["files"] if name.startswith(f"{FEATURES}/")]
        self._run, self._names, self._fingerprint = run, names, manifest["fingerprint"]
        self._before = np.cumsum([0, *(info["rows"] for info in manifest["data"])])
        self._firsts: dict[int, int] = {}

    def holding(self, file: int, line: int) -> int:
        """The shard that covers a line (1-based) of an input."""
        wanted = int(self._before[file]) + line - 1
        low, high = 0, len(self._names)
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self._first(middle) <= wanted else (low, middle)
        return low

    def _first(self, number: int) -> int:
        """Input lines before a shard."""
        if number not in self._firsts:
            self._firsts[number] = self._read(number, ())[0].first
        return self._firsts[number]

    def rows(
        self, number: int, places: Sequence[tuple[int, int]]
    ) -> tuple[list[str], list[tuple[I32, I32, npt.NDArray[np.float32]]]]:
        """Keys of a shard's banks; of the rows at the given files and lines, ascending, see `rows_of`."""
        _, about, arrays = self._read(number, ("file", "line", "pooled.n_tokens", *READ))
        try:
            stand = list(zip(arrays["file"].tolist(), arrays["line"].tolist(), strict=True))
            rows = [stand.index(place) for place in places]
            keys: list[str] = list(about["shares"])
            found = rows_of(arrays, keys, arrays["pooled.n_tokens"], rows)
            return keys, [(start, end, shares) for _, start, end, shares in found]
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise self._damaged(number, str(error)) from None

    def _read(self, number: int, names: Sequence[str]) -> tuple[Span, dict[str, Any], dict[str, npt.NDArray[Any]]]:
        about, arrays = read_some(self._run.file(self._names[number]), names)
        try:
            span = Span(**about["span"])
        except (KeyError, TypeError) as error:
            raise self._damaged(number, str(error)) from None
        if span.fingerprint != self._fingerprint or span.number != number:
            raise self._damaged(number, "not where it belongs")
        return span, about, arrays

    def _damaged(self, number: int, why: str) -> RunError:
        return self._run.damaged(self._names[number], f"damaged ({why})")
