"""The cut: which scored rows are removed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from pathlib import Path

import numpy as np

from geofilter.arrays import F64, Bools, Positions
from geofilter.cut.moved import unpacked
from geofilter.cut.outputs import RowWatcher, RowWriter
from geofilter.cut.places import Outputs, planned
from geofilter.cut.sets import CutAbout, OutputSet, add, described, replacing, sum_new
from geofilter.errors import InputError
from geofilter.run.column import Column
from geofilter.run.score_arrays import rank_array, rows_of_files
from geofilter.run.store import Run
from geofilter.sums import FileSum
from geofilter.together import Together


@dataclass(frozen=True, slots=True)
class Cut:
    """How much to remove: a `fraction` of the scored rows, a `count` of rows, or a percentile `threshold`."""

    kind: str
    value: float
    keep_groups: tuple[int, ...] = ()
    """groups of the rows it would remove that stay, by their numbers in the report of that amount, see `groups`"""
    drop_groups: tuple[int, ...] = ()
    """groups of the rows it would keep that go"""
    moved: str = ""
    """the rows of these groups, see `moved.packed`: a number alone would not say which they were"""

    @property
    def about(self) -> CutAbout:
        """As it is recorded."""
        about: CutAbout = {"kind": self.kind, "value": self.value}
        if self.moved:
            about |= {"keep_groups": [*self.keep_groups], "drop_groups": [*self.drop_groups], "moved": self.moved}
        return about

    @classmethod
    def recorded(cls, about: CutAbout) -> Cut:
        """The other way round."""
        groups = (tuple(about.get("keep_groups", ())), tuple(about.get("drop_groups", ())))
        return cls(about["kind"], about["value"], *groups, about.get("moved", ""))

    @property
    def base(self) -> Cut:
        """The amount alone."""
        return Cut(self.kind, self.value)

    @classmethod
    def parse(cls, text: str, keep: bool = False, option: str | None = None) -> Cut:
        """`"10%"` is a fraction of 0.1, `"500"` a count; with `keep` the amount that stays.

        Args:
            option: what errors call it; by default --keep or --drop.

        Raises:
            InputError: neither a percentage in [0, 100] nor a whole number.
        """
        option = option or ("--keep" if keep else "--drop")
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)%", text.strip())
        if match:
            fraction = float(match[1]) / 100
            if fraction > 1:
                raise InputError(f"{option} {text}: more than everything; use 0% to 100%")
            return cls("fraction", 1 - fraction if keep else fraction)
        if re.fullmatch(r"\d{1,15}", text.strip()):
            return cls("keep_count" if keep else "count", int(text))
        raise InputError(f"{option} {text}: not an amount; write a percentage like 10% or a number of rows like 500")

    @classmethod
    def threshold(cls, value: float) -> Cut:
        """Remove every row whose percentile is `value` or more.

        Raises:
            InputError: outside [0, 1].
        """
        if not 0 <= value <= 1:
            raise InputError(f"--threshold {value}: a percentile is between 0 and 1, 0.99 for instance")
        return cls("threshold", value)

    def __str__(self) -> str:
        groups = [f", group {n} kept" for n in self.keep_groups] + [f", group {n} removed" for n in self.drop_groups]
        return self._amount + "".join(groups)

    @property
    def _amount(self) -> str:
        if self.kind == "fraction":
            return f"drop {self.value * 100:g}%"
        if self.kind == "threshold":
            return f"percentile >= {self.value:g}"
        return f"{'keep' if self.kind == 'keep_count' else 'drop'} {int(self.value)} rows"

    @property
    def option(self) -> str:
        """What makes its amount on a command line."""
        if self.kind == "fraction":
            return f"--drop {self.value * 100:.9g}%"
        if self.kind == "threshold":
            return f"--threshold {self.value:.9g}"
        return f"--{'keep' if self.kind == 'keep_count' else 'drop'} {int(self.value)}"

    def removed(self, score: F64, percentile: F64, order: Positions | None = None) -> Bools:
        """Which rows (n,) go: the highest scores, the earlier row first among equals; then groups change sides.

        Args:
            score: what the run ranks by, see `score_arrays.rank_array`.
            order: (n,) the rows, highest score first, where it is known.

        Raises:
            InputError: more rows than there are.
        """
        if self.kind == "threshold":
            return self._with_groups(self._reached(percentile))
        return self._with_groups(self._highest(by_score(score) if order is None else order))

    def removed_of(self, columns: Mapping[str, Column], order: Positions) -> Bools:
        """The same of the scores of a run, see `Run.columns`; of them only the percentile is read, if it is needed."""
        if self.kind == "threshold":
            return self._with_groups(columns["percentile"].where(self._reached))
        return self._with_groups(self._highest(order))

    def _reached(self, percentile: F64) -> Bools:
        return ~np.asarray(percentile < self.value)  # what cannot be compared goes

    def _highest(self, order: Positions) -> Bools:
        n = len(order)
        count = round(self.value * n) if self.kind == "fraction" else int(self.value)
        if count > n:
            raise InputError(f"{self}: the run has only {n} scored rows")
        if self.kind == "keep_count":
            count = n - count
        mask = np.zeros(n, bool)
        mask[order[:count]] = True
        return mask

    def _with_groups(self, gone: Bools) -> Bools:
        if self.moved:
            rows = unpacked(self.moved)
            if len(rows) and rows[-1] >= len(gone):
                raise InputError(f"{self}: its groups have rows that the run has not")
            gone[rows] = ~gone[rows]
        return gone


def by_score(score: F64) -> Positions:
    """Rows (n,), the highest score first, the earlier row first among equals; no number counts as the highest."""
    return _ascending(-score)


def _order_of(score: Column) -> Positions:
    """The same of a run's scores, which are not held besides."""
    return _ascending(score.each(np.float64, np.negative))


def _ascending(values: F64) -> Positions:
    values[np.isnan(values)] = -np.inf
    return np.argsort(values, kind="stable")


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """A run with a cut applied."""

    run: Run
    cut: Cut
    columns: Mapping[str, Column]
    """the run's scores, which are read where they are needed, see `Run.columns`"""
    removed: Bools
    """(n,) over the scored rows"""
    ordered: InitVar[Positions | None] = None
    """what `order` returns, where it is known"""
    _order: Positions = field(init=False, repr=False)

    def __post_init__(self, ordered: Positions | None) -> None:
        """Sort the rows once: ranks, outputs and report all need it."""
        object.__setattr__(self, "_order", _order_of(self.ranked_by) if ordered is None else ordered)

    @classmethod
    def of(cls, run: Run, cut: Cut) -> Selection:
        """Apply a cut; one cut over all files of the run."""
        columns = run.columns()
        order = _order_of(columns[rank_array(run.manifest)])
        return cls(run, cut, columns, cut.removed_of(columns, order), order)

    @property
    def ranked_by(self) -> Column:
        """(n,) what the rows are ranked by, see `score_arrays.rank_array`."""
        return self.columns[rank_array(self.run.manifest)]

    @property
    def cutoff(self) -> float | None:
        """Lowest of what the rows are ranked by that was removed; None when nothing was."""
        pieces = ((rows, self.removed[here]) for here, rows in self.ranked_by.pieces())
        least = [rows[gone].min() for rows, gone in pieces if gone.any()]
        return float(min(least)) if least else None

    def order(self) -> Positions:
        """Scored rows (n,), the highest score first."""
        return self._order

    def rank(self) -> Positions:
        """1-based rank (n,) of every scored row, 1 for the highest score."""
        rank = np.empty(len(self._order), np.int64)
        rank[self._order] = np.arange(1, len(self._order) + 1)
        return rank

    def kept(self, file: int = 0) -> Positions:
        """0-based rows of an input that stay, ascending; quarantined ones do not. For `datasets.Dataset.select`.

        Rows that `--only` has passed over stay.

        A row is a line of a JSONL file, blank ones included, an element of an array, or a row of a table.

        Args:
            file: position of the input among those of the run.
        """
        info = self.run.manifest["data"][file]
        stays = np.ones(info["rows"], bool)
        of = rows_of_files(self.columns["file"], len(self.run.manifest["data"]))[file]
        for here, lines in self.columns["line"].pieces(of.start, of.stop):
            stays[lines[self.removed[here]] - 1] = False
        stays[[q["line"] - 1 for q in self.run.quarantine() if q["file"] == info["path"]]] = False
        return np.flatnonzero(stays)

    def write(self, out: Path | None = None, removed: Path | None = None) -> list[Outputs]:
        """Write kept, removed and quarantined rows of every input file; all files appear together at the end.

        Args:
            out: file for the kept rows (one input), or a folder for all outputs.
            removed: file for the removed rows (one input).

        Raises:
            InputError: a folder cannot be written, or options that do not fit several inputs.
            RunError: an input has changed since the scan, or the counts do not add up.
        """
        plans = planned([Path(info["path"]) for info in self.run.manifest["data"]], out, removed, self.run.path)
        with replacing(plans) as files:
            written = self.write_rows(files, plans)
            for plan, of in zip(plans, self.sets(files, written), strict=True):
                add(files, plan, of)
        return written

    def write_rows(self, files: Together, plans: Sequence[Outputs], watcher: RowWatcher | None = None) -> list[Outputs]:
        """Write the rows of every input, to appear with other files; see `outputs.RowWriter.write`.

        Args:
            watcher: shown rows while they are written.
        """
        return RowWriter(self.run, self.columns, self.removed, self._order, watcher).write(files, plans)

    def sets(
        self,
        files: Together,
        written: Sequence[Outputs],
        reports: bool = False,
        known: Mapping[Path, FileSum] | None = None,
    ) -> list[OutputSet]:
        """Describe what has been written of every input.

        Args:
            reports: reports are among it.
            known: sizes and hashes of some files, see `sums_of_rows`.
        """
        about = self.cut.about
        out = []
        for place in written:
            paths = place.paths[:-1] if reports else place.rows
            sums = {path: (known or {}).get(path) or sum_new(files, path) for path in paths}
            out.append(described(self.run, about, place, sums))
        return out

    @staticmethod
    def sums_of_rows(files: Together, written: Sequence[Outputs]) -> dict[Path, FileSum]:
        """Sizes and hashes of the files of rows that have been written of every input."""
        return {path: sum_new(files, path) for place in written for path in place.rows}
