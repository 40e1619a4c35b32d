"""An output set: the files of one input that a cut has written, and the description that says they belong together.

    data.filtered.jsonl  data.removed.jsonl  data.quarantined.jsonl  data.report.html, .json, .md
    data.set.json        names, sizes and hashes of these, the cut, the counts, and the run

The description of an old set goes before the first new file appears, and the new one comes last: files without one, or
with one that does not fit them, are no whole set.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from geofilter.cut.places import Outputs
from geofilter.errors import InputError, RunError
from geofilter.files import folders_locked, from_json, json_text, own_bytes
from geofilter.run.manifest import InputFile
from geofilter.run.names import SCORES
from geofilter.run.store import Run
from geofilter.sums import FileSum, broken, sealed, sum_of
from geofilter.together import NotWrittenError, Together, mode_of
from geofilter.typed import check_typed

FORMAT = 1
ROWS = 3
"""files of rows in a set: kept, removed and quarantined ones, named first"""

_KINDS = ("filtered", "removed", "quarantined", "report")


class CutAbout(TypedDict):
    """A cut, see `cut.Cut`."""

    kind: str
    value: float
    keep_groups: NotRequired[list[int]]
    drop_groups: NotRequired[list[int]]
    moved: NotRequired[str]


class SetCounts(TypedDict):
    """Rows of an input."""

    rows: int
    kept: int
    removed: int
    quarantined: int


class OutputSet(TypedDict):
    """What data.set.json says."""

    format: int
    input: InputFile
    cut: CutAbout
    run: str
    """its folder, as it was called, or its URL"""
    fingerprint: str
    """of the run's encoding"""
    scores: str
    """sha256 of the scores that were cut"""
    counts: SetCounts
    files: dict[str, FileSum]
    """by their paths from the folder of the description"""


def described(
    run: Run, cut: CutAbout, written: Outputs, files: dict[Path, FileSum], before: OutputSet | None = None
) -> OutputSet:
    """Describe a set.

    Args:
        files: the files of it that have been written now.
        before: what was said of it before; its other files are the same.
    """
    manifest, place = run.manifest, written.set_file.parent
    named = {os.path.relpath(path, place): of for path, of in files.items()}
    return {
        "format": FORMAT,
        "input": manifest["data"][written.index],
        "cut": cut,
        "run": run.called,
        "fingerprint": manifest["fingerprint"],
        "scores": manifest["files"][SCORES]["sha256"],
        "counts": {
            "rows": manifest["data"][written.index]["rows"],
            "kept": written.n_kept,
            "removed": written.n_removed,
            "quarantined": written.n_quarantined,
        },
        "files": {**(before["files"] if before else {}), **named},
    }


def read_set(path: Path) -> OutputSet:
    """Read a data.set.json.

    Raises:
        RunError: it is not there, or damaged.
    """
    try:
        found: Any = from_json(own_bytes(path))
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError("no description of a set")
        if wrong := broken(found):
            raise ValueError(f"its field {wrong} is not what was written")
        check_typed(found, OutputSet)
        if len(found["files"]) < ROWS:
            raise ValueError("files has no three of rows")
    except FileNotFoundError:
        raise RunError(f"{path}: is not there, so the files beside it are no whole set; run geofilter filter") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: damaged ({error}); run geofilter filter again") from None
    of: OutputSet = found  # type: ignore[assignment]
    return of


def torn(of: OutputSet, path: Path) -> Iterator[tuple[Path, str]]:
    """The files of a set that are not what was written, and what they are.

    Args:
        path: of the description.
    """
    for name, wanted in of["files"].items():
        file = path.parent / name
        try:
            if sum_of(file) != wanted:
                yield file, "is not what was written with the others"
        except OSError as error:
            yield file, f"cannot be read ({error.strerror or error})"


def within(run: Run) -> Iterator[Path]:
    """The files of sets that a cut has written into the run's folder itself, as for a pipe; each description last."""
    for path in sorted(run.path.glob("*.set.json")):
        try:
            names = read_set(path)["files"]
        except RunError:
            continue
        # Of this name only: a description that was put there by others may name the run's own files.
        begins = tuple(f"{path.name.removesuffix('.set.json')}.{kind}." for kind in _KINDS)
        yield from (run.path / name for name in names if name.startswith(begins) and "/" not in name)
        yield path


@contextmanager
def replacing(
    plans: Sequence[Outputs], reports_too: Sequence[Path] = (), outdated: Sequence[Path] = ()
) -> Iterator[Together]:
    """Write sets anew, as one transaction: nothing appears before all of it is made.

    Args:
        plans: of the sets; each goes out with its description first.
        reports_too: other folders that are written.
        outdated: other files that go.

    Raises:
        InputError: a file cannot be written.
        RunError: another process writes into one of the folders.
    """
    folders = {path.parent for plan in plans for path in (plan.kept, plan.removed)} | set(reports_too)
    try:
        with (
            folders_locked(folders, "another geofilter filter is writing here; wait for it, then run this again"),
            Together([plan.set_file for plan in plans] + list(outdated)) as files,
        ):
            yield files
    except NotWrittenError as error:
        if error.errno == errno.EISDIR:
            raise InputError(f"{error.filename}: is a folder, and cannot be written; take it away") from None
        raise InputError(
            f"{Path(error.filename).parent}: cannot be written ({error.strerror}); give another place with --out"
        ) from None


def sum_new(files: Together, path: Path) -> FileSum:
    """Size and hash of a file that has been written to appear at a path.

    Raises:
        NotWrittenError: it cannot be read again.
    """
    try:
        return sum_of(files.written(path))
    except OSError as error:
        raise NotWrittenError(error, path) from None


def add(files: Together, plan: Outputs, of: OutputSet) -> None:
    """Write the description of a set, to appear after its files."""
    with files.open(plan.set_file, mode_of([Path(of["input"]["path"])]), last=True) as handle:
        handle.write((json_text(sealed(of), indent=1) + "\n").encode("utf-8", "backslashreplace"))
