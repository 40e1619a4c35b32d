"""Writing a cut: the kept, removed and quarantined rows of every input."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from geofilter.arrays import Bools, Positions
from geofilter.errors import InputError, RunError
from geofilter.files import Together, dumps
from geofilter.rows.arrow import Arrow
from geofilter.rows.formats import CALLED, Jsonl, format_of
from geofilter.rows.json_array import BOM
from geofilter.rows.lines import on_one_line, read_lines
from geofilter.rows.packing import ending_of, named_as, packing, split_name
from geofilter.rows.parquet import Parquet
from geofilter.rows.reading import Reading
from geofilter.rows.records import Row, parse_line, row_sha256
from geofilter.run.manifest import InputFile, Quarantined, ScoreLine
from geofilter.run.store import Run


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files written for one input, and their row counts."""

    index: int
    kept: Path
    removed: Path
    quarantined: Path
    in_lines: bool
    """whether the kept rows are written as lines; else in their input's format"""
    packed: str
    """what packs the kept rows, see `packing.packing`"""
    n_kept: int = 0
    n_removed: int = 0
    n_quarantined: int = 0

    @classmethod
    def plan(cls, index: int, data: Path, out: Path | None, removed: Path | None, n_inputs: int) -> Outputs:
        """Where the outputs of `data` go.

        Raises:
            InputError: a file name was given for several inputs, or one that stands for another format.
        """
        folder, (stem, suffix), found = data.parent, split_name(data), format_of(data)
        kept, in_lines, packed = folder / f"{stem}.filtered{suffix}", isinstance(found, Jsonl), found.packed
        if out is not None and (out.is_dir() or n_inputs > 1):
            if not out.is_dir():
                raise InputError(f"--out {out}: the run has {n_inputs} inputs; give an existing folder")
            folder, kept = out, out / kept.name
        elif out is not None:
            folder, kept = out.parent, out
            stem = split_name(out)[0].removesuffix(".filtered")
            named, packed = named_as(out)
            in_lines = in_lines or named not in found.endings
            if in_lines and named in CALLED:
                raise InputError(f"--out {out}: {data} is no {CALLED[named]}; kept rows have their input's format")
            if packed and not in_lines and isinstance(found, Parquet | Arrow):
                raise InputError(f"--out {out}: a {CALLED[named]} packs its own columns; leave {out.suffix} off")
        if removed is not None and (named_as(removed)[0] in CALLED or ending_of(removed)):
            raise InputError(f"--removed {removed}: removed rows are written as plain JSONL; name it .jsonl")
        if removed is not None and n_inputs > 1:
            raise InputError(f"--removed {removed}: the run has {n_inputs} inputs; leave it out or use --out FOLDER")
        return cls(
            index,
            kept,
            removed or folder / f"{stem}.removed.jsonl",
            folder / f"{stem}.quarantined.jsonl",
            in_lines,
            packed,
        )

    def check(self, path: str, rows: int, kept: int, removed: int, quarantined: int) -> None:
        """Refuse files that do not hold every row of their input once.

        Raises:
            RunError: they do not.
        """
        count = {"kept": self.n_kept, "removed": self.n_removed, "quarantined": self.n_quarantined}
        expected = {"kept": kept, "removed": removed, "quarantined": quarantined}
        if count != expected or sum(count.values()) != rows:
            raise RunError(f"{path}: {count} does not match the run's {expected}; scan it again")

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files of this input: rows and reports."""
        return self.kept, self.removed, self.quarantined, *(self.report(kind) for kind in ("html", "json", "md"))

    def report(self, kind: str) -> Path:
        """Where this input's report of a kind (html, json, md) goes: beside the kept rows."""
        return self.kept.parent / f"{split_name(self.kept)[0].removesuffix('.filtered')}.report.{kind}"

    def open(self, together: Together, stack: ExitStack) -> dict[str, IO[bytes]]:
        """Open the three outputs, which appear when `together` ends."""
        return {
            kind: stack.enter_context(_writing(together, path, packed))
            for kind, path, packed in (
                ("kept", self.kept, self.packed),
                ("removed", self.removed, ""),
                ("quarantined", self.quarantined, ""),
            )
        }


@contextmanager
def _writing(together: Together, path: Path, packed: str) -> Iterator[IO[bytes]]:
    try:
        with together.open(path) as raw, packing(raw, packed) as handle:
            yield handle
    except OSError as error:
        raise InputError(
            f"{path.parent}: cannot be written ({error.strerror or error}); give another place with --out"
        ) from None


class RowWatcher(Protocol):
    """Is shown rows while they are written, so that the inputs and scores.jsonl are read once."""

    @property
    def wanted(self) -> Positions:
        """Scored rows that `row` is to be called for, ascending."""

    def removed(self, line: ScoreLine) -> None:
        """Take the score line of a removed row; in input order."""

    def row(self, position: int, line: ScoreLine, row: Row) -> None:
        """Take a wanted row; in input order."""


@dataclass(frozen=True, eq=False)
class RowWriter:
    """Writes the rows of a run's inputs to where a cut puts them."""

    run: Run
    arrays: dict[str, npt.NDArray[Any]]
    """the run's score arrays"""
    gone: Bools
    """(n,) the scored rows that are removed"""
    rank: Positions
    """(n,) 1 for the highest score"""
    watcher: RowWatcher | None = None

    @cached_property
    def _watched(self) -> Bools:
        watched = np.zeros(len(self.gone), bool)
        if self.watcher is not None:
            watched[self.watcher.wanted] = True
        return watched

    @cached_property
    def _special(self) -> Bools:
        """Rows (n,) that need more than their bytes: removed ones, and those that are watched."""
        return self.gone | self._watched

    @cached_property
    def _reading(self) -> Reading:
        return self.run.reading

    def write(self, out: Path | None, removed: Path | None) -> list[Outputs]:
        """Write every input's rows, see `Selection.write`."""
        files = self.run.manifest["data"]
        plans = [Outputs.plan(i, Path(f["path"]), out, removed, len(files)) for i, f in enumerate(files)]
        _refuse_taken(plans, [Path(f["path"]) for f in files])
        quarantine = self.run.quarantine()
        # In input order, as the rows are written.
        details = self.run.score_lines(np.flatnonzero(self._special))
        with Together() as together, ExitStack() as stack:
            opened = [plan.open(together, stack) for plan in plans]
            return [
                self._write_file(plan, handles, info, details, [q for q in quarantine if q["file"] == info["path"]])
                for plan, handles, info in zip(plans, opened, files, strict=True)
            ]

    def _write_file(
        self,
        plan: Outputs,
        handles: dict[str, IO[bytes]],
        info: InputFile,
        details: Iterator[tuple[int, ScoreLine]],
        quarantine: Sequence[Quarantined],
    ) -> Outputs:
        path, scored = info["path"], np.flatnonzero(self.arrays["file"] == plan.index)
        bad = {q["line"]: q for q in quarantine}
        found, digest, as_scored = format_of(Path(path)), hashlib.sha256(), True
        lines = isinstance(found, Jsonl)
        keep, n_removed, n_bad = np.zeros(info["rows"], bool), 0, 0
        special = scored[self._special[scored]]
        todo = zip(special.tolist(), self.arrays["line"][special].tolist(), strict=True)
        position, at = next(todo, (-1, -1))
        for number, line in enumerate(read_lines(Path(path)), start=1):
            digest.update(line)
            if number > info["rows"]:
                continue  # past --limit: not scanned, so in no output; said on every report
            if number in bad:
                handles["quarantined"].write(dumps(bad[number]))
                n_bad += 1
                continue
            gone = False
            if number == at:
                gone = bool(self.gone[position])
                of, detail = next(details, (-1, None))
                if of != position or detail is None or detail.get("line") != number:
                    raise self.run.damaged()
                as_scored &= self._take(position, line, detail, handles["removed"])
                position, at = next(todo, (-1, -1))
            if gone:
                n_removed += 1
            else:
                keep[number - 1] = True
                if plan.in_lines:
                    handles["kept"].write(line if lines else on_one_line(line) + b"\n")
        if digest.hexdigest() != info["sha256"]:
            raise RunError(f"{path}: has changed since the scan; scan it again, then filter")
        if not as_scored:
            raise self.run.damaged()
        done = replace(plan, n_kept=int(keep.sum()), n_removed=n_removed, n_quarantined=n_bad)
        n_gone = int(self.gone[scored].sum())
        passed = info["rows"] - len(scored) - len(bad) if self._reading.only else 0
        done.check(path, info["rows"], len(scored) + passed - n_gone, n_gone, len(bad))
        if not plan.in_lines and not isinstance(found, Jsonl):
            found.write(keep, handles["kept"])
        return done

    def _take(self, position: int, line: bytes, detail: ScoreLine, out: IO[bytes]) -> bool:
        """Write a removed row and show a watched one; False where it is not the row that was scored."""
        if row_sha256(line) != detail["sha256"]:
            return False
        if self.gone[position]:
            out.write(_removed_line(line, detail, int(self.rank[position])))
            if self.watcher is not None:
                self.watcher.removed(detail)
        if self._watched[position] and self.watcher is not None:
            row = parse_line(line, detail["file"], detail["line"], self._reading)
            if not isinstance(row, Row):
                return False
            self.watcher.row(position, detail, row)
        return True


def _refuse_taken(plans: Sequence[Outputs], inputs: Sequence[Path]) -> None:
    taken = {path.resolve() for path in inputs}
    for path in (path for plan in plans for path in plan.paths):
        if not path.name or (path.exists() and not path.is_file()):
            raise InputError(f"{path}: is not a file that can be written; choose another name")
        if path.resolve() in taken:
            raise InputError(
                f"{path}: would overwrite an input or another output; rename one of the inputs, scan them in runs "
                "of their own, or give another --out"
            )
        taken.add(path.resolve())


def _removed_line(line: bytes, detail: ScoreLine, rank: int) -> bytes:
    """The row's own bytes, with a note as its last field."""
    row = on_one_line(line.lstrip(BOM)).strip()
    record = json.loads(row)
    note: dict[str, Any] = {
        "score": detail["score"],
        "percentile": detail["percentile"],
        "bank": detail["bank"],
        "banks": detail["banks"],
        "topic": detail["topic"],
        "topics": detail["topics"],
        "top_features": detail["top_features"],
        "rank": rank,
        "reason": reason(detail),
    }
    if "geofilter" in record:
        note["previous"] = record["geofilter"]  # of an earlier removal; readers see the last field of a name only
    return row[:-1] + (b', "geofilter": ' if record else b'"geofilter": ') + dumps(note).rstrip() + b"}\n"


def reason(detail: ScoreLine) -> str:
    """Why a row scores as it does, in one sentence."""
    text = f"scores above {detail['percentile']:.1%} of ordinary rows under {detail['bank']}"
    if detail["topic"]:
        text += f", of its topics closest to {detail['topic']}"
    parts = [f"feature {t['feature']} ({t['label']}) {t['share']:+.2f}" for t in detail["top_features"][:3]]
    return f"{text}; most from {', '.join(parts)}" if parts else text
