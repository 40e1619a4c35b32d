"""Where the kept, removed and quarantined rows of every input go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from geofilter.errors import InputError, RunError
from geofilter.places import refuse_output, refuse_outputs, same_place
from geofilter.rows.arrow import Arrow
from geofilter.rows.formats import CALLED, Jsonl, format_of
from geofilter.rows.packing import ENDINGS, WRITTEN_BY_NONE, ending_of, named_as, packing, split_name
from geofilter.rows.parquet import Parquet
from geofilter.together import Together


class Place(NamedTuple):
    """Where rows of an input go that are written in its own format, unless another is asked for."""

    path: Path
    stem: str
    """of the names of what is written beside them"""
    in_lines: bool
    """whether they are written as lines"""
    packed: str
    """what packs them, see `packing.packing`"""

    @classmethod
    def of(cls, data: Path, out: Path | None, n_inputs: int, called: str = "", word: str = "filtered") -> Place:
        """The place for rows of an input.

        Args:
            out: file (one input), or an existing folder; by default the input's own.
            called: what stands for the stem of its name, where another input has the same.
            word: what stands between stem and ending.

        Raises:
            InputError: a file name was given for several inputs, or one that stands for another format.
        """
        folder, (stem, suffix), found = data.parent, split_name(data), format_of(data)
        stem = called or stem
        if not data.suffix:
            suffix = f"{found.endings[0]}{found.packed}"
        path, in_lines, packed = folder / f"{stem}.{word}{suffix}", isinstance(found, Jsonl), found.packed
        if out is None:
            return cls(path, stem, in_lines, packed)
        if out.is_dir() or n_inputs > 1:
            if not out.is_dir():
                raise InputError(f"--out {out}: the run has {n_inputs} inputs; give an existing folder")
            return cls(out / path.name, stem, in_lines, packed)
        _refuse_packed(out)
        named, packed = named_as(out)
        in_lines = in_lines or named not in found.endings
        if in_lines and named in CALLED:
            raise InputError(f"--out {out}: {data} is no {CALLED[named]}; kept rows have their input's format")
        if packed and not in_lines and isinstance(found, Parquet | Arrow):
            raise InputError(f"--out {out}: a {CALLED[named]} packs its own columns; leave {out.suffix} off")
        return cls(out, split_name(out)[0].removesuffix(f".{word}"), in_lines, packed)

    @contextmanager
    def open(self, files: Together, mode: int | None) -> Iterator[IO[bytes]]:
        """Open the file, which appears when `files` ends.

        Args:
            mode: its permissions.
        """
        with _packed(files, self.path, self.packed, mode) as handle:
            yield handle


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
    def plan(
        cls, index: int, data: Path, out: Path | None, removed: Path | None, n_inputs: int, called: str = ""
    ) -> Outputs:
        """Where the outputs of `data` go.

        Args:
            called: what stands for the stem of its name, where another input has the same.

        Raises:
            InputError: a file name was given for several inputs, or one that stands for another format.
        """
        place = Place.of(data, out, n_inputs, called)
        folder = place.path.parent
        if removed is not None and str(removed) == "-":
            raise InputError("--removed -: removed rows are written to a file only; name one")
        if removed is not None:
            _refuse_packed(removed, "--removed")
        if removed is not None and (named_as(removed)[0] in CALLED or ending_of(removed)):
            raise InputError(f"--removed {removed}: removed rows are written as plain JSONL; name it .jsonl")
        if removed is not None and n_inputs > 1:
            raise InputError(f"--removed {removed}: the run has {n_inputs} inputs; leave it out or use --out FOLDER")
        return cls(
            index,
            place.path,
            removed or folder / f"{place.stem}.removed.jsonl",
            folder / f"{place.stem}.quarantined.jsonl",
            place.in_lines,
            place.packed,
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
        """All files of this input: rows, reports and description."""
        return *self.rows, *self.reports, self.set_file

    @property
    def rows(self) -> tuple[Path, Path, Path]:
        """Its files of rows."""
        return self.kept, self.removed, self.quarantined

    @property
    def reports(self) -> list[Path]:
        """Where this input's reports go."""
        return [self.report(kind) for kind in ("html", "json", "md")]

    @property
    def set_file(self) -> Path:
        """Where the description of these files goes, see `sets`."""
        return self.kept.parent / f"{self._stem}.set.json"

    @property
    def _stem(self) -> str:
        return split_name(self.kept)[0].removesuffix(".filtered")

    def report(self, kind: str) -> Path:
        """Where this input's report of a kind (html, json, md) goes: beside the kept rows."""
        return self.kept.parent / f"{self._stem}.report.{kind}"

    def open(self, files: Together, stack: ExitStack, mode: int | None) -> dict[str, IO[bytes]]:
        """Open the three outputs of rows, which appear when `files` ends.

        Args:
            mode: their permissions.
        """
        return {
            kind: stack.enter_context(_packed(files, path, packed, mode))
            for kind, path, packed in (
                ("kept", self.kept, self.packed),
                ("removed", self.removed, ""),
                ("quarantined", self.quarantined, ""),
            )
        }


@contextmanager
def _packed(files: Together, path: Path, packed: str, mode: int | None) -> Iterator[IO[bytes]]:
    with files.open(path, mode) as raw, packing(raw, packed) as handle:
        yield handle


def _refuse_packed(path: Path, option: str = "--out") -> None:
    if path.suffix.lower() in WRITTEN_BY_NONE:
        raise InputError(
            f"{option} {path}: {path.suffix} is not written; name it .jsonl, or one of {', '.join(ENDINGS)}"
        )


def planned(inputs: Sequence[Path], out: Path | None, removed: Path | None, run: Path | None = None) -> list[Outputs]:
    """Where the outputs of each input go.

    Of inputs whose outputs would be written over each other's, under longer names: the file's whole name, and those of
    its folders where that is another's too.

    Args:
        run: the run's folder, into which a cut may be written too, as for a pipe.

    Raises:
        InputError: options that do not fit the inputs, or a name that is taken or cannot be written.
    """
    named = out is not None and not (run is not None and same_place(out, run))
    try:
        plans = [Outputs.plan(i, path, out, removed, len(inputs)) for i, path in enumerate(inputs)]
        for i, name in _told_apart(inputs, plans).items():
            plans[i] = Outputs.plan(i, inputs[i], out, removed, len(inputs), name)
        _refuse_taken(plans, inputs)
        if removed is not None:
            refuse_output(removed, "--removed", inputs)
        if out is not None and len(inputs) == 1:
            refuse_output(out, "--out", inputs, kind="any", named=named)
        for plan in plans:
            refuse_outputs(plan.paths, "", inputs, named=named)
    except OSError as error:
        where = error.filename or out or inputs[0]
        raise InputError(f"{where}: cannot be written ({error.strerror}); give another name with --out") from None
    return plans


def _told_apart(inputs: Sequence[Path], plans: Sequence[Outputs]) -> dict[int, str]:
    """Names for those inputs whose outputs have the same ones, by their position."""
    count = Counter(path.resolve() for plan in plans for path in plan.paths)
    return longer_names(inputs, [i for i, plan in enumerate(plans) if count[plan.quarantined.resolve()] > 1])


def longer_names(inputs: Sequence[Path], which: Sequence[int]) -> dict[int, str]:
    """Names that tell inputs apart, by their positions: with as many of their folders as that takes."""
    alike = {i: inputs[i].resolve().parts for i in which}
    for n in range(1, max(map(len, alike.values()), default=0) + 1):
        found = {i: "-".join(parts[-n:]) for i, parts in alike.items()}
        if len(set(found.values())) == len(found):
            return found
    return {}


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


def refuse_beside(
    option: str, path: Path, inputs: Sequence[Path], out: Path | None, removed: Path | None, run: Path
) -> None:
    """Refuse a place for a file that an option of a cut writes besides, before anything is written.

    Args:
        option: that names it.
        out, removed, run: where the cut writes, see `planned`.

    Raises:
        InputError: it is an input, an output of the cut, or cannot be written.
    """
    if path.name == "-" or ending_of(path):
        raise InputError(f"{option} {path}: is written as plain JSONL to a file; give a name like rows.jsonl")
    refuse_output(path, option, inputs)
    if path.resolve() in {of.resolve() for plan in planned(inputs, out, removed, run) for of in plan.paths}:
        raise InputError(f"{option} {path}: is written by this cut too; give another name")
    if not path.parent.is_dir():
        raise InputError(f"{option} {path}: no such folder; make it first")
