"""The cut: which scored rows are removed, and writing the kept, removed and quarantined files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import Bools
from geofilter.cut.outputs import Outputs, _removed_line
from geofilter.errors import InputError, RunError
from geofilter.files import Together, dumps
from geofilter.rows import parquet
from geofilter.rows.lines import read_lines
from geofilter.run.store import Run


@dataclass(frozen=True, slots=True)
class Cut:
    """How much to remove: a `fraction` of the scored rows, a `count` of rows, or a percentile `threshold`."""

    kind: str
    value: float

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
        if self.kind == "fraction":
            return f"drop {self.value * 100:g}%"
        if self.kind == "threshold":
            return f"percentile >= {self.value:g}"
        return f"{'keep' if self.kind == 'keep_count' else 'drop'} {int(self.value)} rows"

    def removed(self, score: npt.NDArray[np.float64], percentile: npt.NDArray[np.float64]) -> Bools:
        """Which rows (n,) go: the highest scores, the earlier row first among equals.

        Raises:
            InputError: more rows than there are.
        """
        n = len(score)
        if self.kind == "threshold":
            return np.asarray(percentile >= self.value)
        count = round(self.value * n) if self.kind == "fraction" else int(self.value)
        if count > n:
            raise InputError(f"{self}: the run has only {n} scored rows")
        if self.kind == "keep_count":
            count = n - count
        mask = np.zeros(n, bool)
        mask[np.argsort(-score, kind="stable")[:count]] = True
        return mask


@dataclass(frozen=True, slots=True, eq=False)
class Selection:
    """A run with a cut applied."""

    run: Run
    cut: Cut
    arrays: dict[str, npt.NDArray[Any]]
    """the run's score arrays"""
    removed: Bools
    """(n,) over the scored rows"""

    @classmethod
    def of(cls, run: Run, cut: Cut) -> Selection:
        """Apply a cut; one cut over all files of the run."""
        arrays = run.arrays()
        return cls(run, cut, arrays, cut.removed(arrays["score"], arrays["percentile"]))

    @property
    def cutoff(self) -> float | None:
        """Lowest score that was removed; None when nothing was."""
        return float(self.arrays["score"][self.removed].min()) if self.removed.any() else None

    def order(self) -> npt.NDArray[np.int64]:
        """Scored rows (n,), the highest score first."""
        return np.argsort(-self.arrays["score"], kind="stable")

    def rank(self) -> npt.NDArray[np.int64]:
        """1-based rank (n,) of every scored row, 1 for the highest score."""
        order = self.order()
        rank = np.empty(len(order), np.int64)
        rank[order] = np.arange(1, len(order) + 1)
        return rank

    def kept(self, file: int = 0) -> npt.NDArray[np.int64]:
        """0-based rows of an input that stay, ascending; quarantined ones do not. For `datasets.Dataset.select`.

        A row is a line of a JSONL file, blank ones included, or a row of a Parquet file.

        Args:
            file: position of the input among those of the run.
        """
        mine = (self.arrays["file"] == file) & ~self.removed
        rows: npt.NDArray[np.int64] = self.arrays["line"][mine] - 1
        return rows

    def write(
        self,
        out: Path | None = None,
        removed: Path | None = None,
        seen: Callable[[dict[str, Any]], None] = lambda detail: None,
    ) -> list[Outputs]:
        """Write kept, removed and quarantined rows of every input file; all files appear together at the end.

        Args:
            out: file for the kept rows (one input), or a folder for all outputs.
            removed: file for the removed rows (one input).
            seen: shown the line of scores.jsonl of each removed row.

        Raises:
            InputError: a folder cannot be written, or options that do not fit several inputs.
            RunError: an input has changed since the scan, or the counts do not add up.
        """
        files = self.run.manifest["data"]
        plans = [Outputs.plan(i, Path(f["path"]), out, removed, len(files)) for i, f in enumerate(files)]
        taken = {Path(f["path"]).resolve() for f in files}
        for path in (path for plan in plans for path in plan.paths):
            if not path.name or (path.exists() and not path.is_file()):
                raise InputError(f"{path}: is not a file that can be written; choose another name")
            if path.resolve() in taken:
                raise InputError(
                    f"{path}: would overwrite an input or another output; rename one of the inputs, scan them in runs "
                    "of their own, or give another --out"
                )
            taken.add(path.resolve())
        with Together() as together, ExitStack() as stack:
            pending = [plan.open(together, stack) for plan in plans]
            details = self.run.score_lines(np.flatnonzero(self.removed))  # in input order, as the rows are written
            rank = self.rank()
            quarantine = self.run.quarantine()
            done = []
            for plan, handles, info in zip(plans, pending, files, strict=True):
                done.append(self._write_file(plan, handles, info, details, rank, quarantine, seen))
        return done

    def _write_file(
        self,
        plan: Outputs,
        handles: dict[str, IO[bytes]],
        info: dict[str, Any],
        details: Iterator[tuple[int, dict[str, Any]]],
        rank: npt.NDArray[np.int64],
        quarantine: list[dict[str, Any]],
        seen: Callable[[dict[str, Any]], None],
    ) -> Outputs:
        mine = np.flatnonzero(self.arrays["file"] == plan.index)
        gone = set(self.arrays["line"][mine[self.removed[mine]]].tolist())
        bad = {q["line"]: q for q in quarantine if q["file"] == info["path"]}
        digest, count = hashlib.sha256(), {"kept": 0, "removed": 0, "quarantined": 0}
        keep, in_lines = np.zeros(info["rows"], bool), plan.kept.suffix != parquet.ENDING
        for number, line in enumerate(read_lines(Path(info["path"])), start=1):
            digest.update(line)
            if number > info["rows"]:
                continue  # past --limit: not scanned, so in no output; said on every report
            if number in bad:
                handles["quarantined"].write(dumps(bad[number]))
                count["quarantined"] += 1
            elif number in gone:
                i, detail = next(details, (0, {}))
                if detail.get("line") != number:
                    raise RunError(f"{self.run.path}: scores.jsonl is damaged; run geofilter scan again")
                handles["removed"].write(_removed_line(line, detail, int(rank[i])))
                seen(detail)
                count["removed"] += 1
            else:
                keep[number - 1] = True
                count["kept"] += 1
                if in_lines:
                    handles["kept"].write(line)
        if digest.hexdigest() != info["sha256"]:
            raise RunError(f"{info['path']}: has changed since the scan; scan it again, then filter")
        expected = {"kept": len(mine) - len(gone), "removed": len(gone), "quarantined": len(bad)}
        if count != expected or sum(count.values()) != info["rows"]:
            raise RunError(f"{info['path']}: {count} does not match the run's {expected}; scan it again")
        if not in_lines:
            parquet.write_rows(Path(info["path"]), keep, handles["kept"])
        return Outputs(plan.index, plan.kept, plan.removed, plan.quarantined, **{f"n_{k}": v for k, v in count.items()})
