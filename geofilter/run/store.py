"""The run folder: shards of row features, scores, quarantine and manifest; every write is atomic.

    manifest.json            what was scanned, with what, and the counts
    plan.jsonl               which input lines each shard covers, and where they stand
    features/part-00000.safetensors
    scores.jsonl             one line per scored row, input order
    scores.safetensors       the same numbers as arrays, for fast cuts
    vectors.safetensors      what each row is about, to compare rows by
    quarantine.jsonl         rows that could not be scored
    scoring/                 while many rows are scored: what is scored already, see `scoring`

A finished shard is the unit of resume. Every file is held against the manifest's hashes, the manifest against its own.
A run at a URL is the mirror of it here, see `run.mirror`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from geofilter.arrays import Positions
from geofilter.bank.features import Pooled
from geofilter.errors import RunError
from geofilter.files import from_json, locked, write_json
from geofilter.rows.reading import Reading
from geofilter.run.column import Column, Source
from geofilter.run.lines_at import believed_lines
from geofilter.run.manifest import Manifest, Quarantined, ScoreLine, Started, again, read_manifest, remedy
from geofilter.run.mirror import behind, mirror_of
from geofilter.run.names import FEATURES, LABELS, LINES, MANIFEST, PLAN, QUARANTINE, SCORES, SCORING, VECTORS
from geofilter.run.score_arrays import ScoreColumns
from geofilter.run.shard import Outline, Read, Shard, checked, features_of
from geofilter.stores import is_url
from geofilter.sums import FileSum, sealed, sum_of
from geofilter.together import mode_of

FORMAT = 7


class Run:
    """A run folder on disk.

    Args:
        path: of the folder; or, as a text, the URL of one in a store.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = path if isinstance(path, Path) else mirror_of(path) if is_url(path) else Path(path)
        self.mirror = behind(self.path)
        """what keeps the folder the same as a run in a store; None of a run that lies here"""
        self._believed: dict[str, tuple[int, int, FileSum]] = {}
        """of files that were held against their hash: size and time then, and the hash"""
        self._columns = ScoreColumns()

    @classmethod
    def open(cls, path: Path | str, scoring: str = "") -> Run:
        """A finished run.

        Args:
            scoring: a command; a run whose scoring by it was stopped is taken too.

        Raises:
            RunError: no such run, or one that is not complete.
        """
        run = cls(path)
        if run.mirror is not None:
            run.mirror.pull(parts=bool(scoring))
        if not (run.path / MANIFEST).is_file():
            raise RunError(f"{run.called}: not a run folder (no manifest.json); make one with geofilter scan")
        manifest = run.manifest
        if manifest.get("format") != FORMAT:
            raise RunError(f"{run.called}: run format {manifest.get('format')!r} is not readable here; scan again")
        if not manifest["complete"] and not (scoring and manifest.get("scoring") == scoring):
            raise RunError(f"{run.called}: the scan is not complete; {run.remedy}")
        return run

    @property
    def called(self) -> str:
        """What a command takes for this run: its URL, else its folder."""
        return str(self.path) if self.mirror is None else self.mirror.url

    @property
    def remedy(self) -> str:
        """What finishes the run, or why nothing does, in words."""
        return remedy(self.manifest, self.called, str(self.path / LABELS))

    def damaged(self, name: str, why: str = "is not what the scan wrote") -> RunError:
        """The error of a file of the run that is not believed."""
        where = self.path / name if self.mirror is None else f"{self.called}/{name}"
        return RunError(f"{where}: {why}; make it again with: {again(self.manifest)}")

    @property
    def manifest(self) -> Manifest:
        """The manifest as it stands on disk.

        Raises:
            RunError: it is damaged.
        """
        return read_manifest(self.path / MANIFEST, FORMAT)

    @property
    def reading(self) -> Reading:
        """How the scan was told to read rows; every later reading of them goes by it."""
        about = self.manifest["encoding"]
        only = tuple((column, value) for column, value in about.get("only", ()))
        return Reading(about.get("fields", {}), about["train"], about["score_thinking"], only)

    @property
    def mode(self) -> int | None:
        """Permissions of files that hold rows: those of the inputs, see `together.mode_of`."""
        return mode_of(Path(info["path"]) for info in self.manifest["data"])

    def write_manifest(self, value: Started) -> None:
        """Replace the manifest; in a store, after all that it names has been published there.

        Once the run is complete, what it was put together from goes.
        """
        write_json(self.path / MANIFEST, sealed(value))
        if value["complete"]:
            shutil.rmtree(self.path / SCORING, ignore_errors=True)
        if self.mirror is not None:
            self.mirror.publish(cast("Mapping[str, FileSum]", value.get("files", {})))

    def publish(self) -> None:
        """Publish what was written beside the scan's files, such as reports, where the run lies in a store."""
        if self.mirror is not None:
            self.mirror.publish()

    def keep(self, shard: Shard, mode: int | None = None) -> None:
        """Write a finished shard where it belongs; see `Shard.save`."""
        path = self.part(shard.span.number)
        shard.save(path, mode)
        if self.mirror is not None:
            self.mirror.put([f"{FEATURES}/{path.name}"])

    def discard(self, part: Path) -> None:
        """Take a shard away."""
        part.unlink()
        if self.mirror is not None:
            self.mirror.discard(f"{FEATURES}/{part.name}")

    def file(self, name: str) -> Path:
        """Where a file of the run is here, whatever it holds; one of a run in a store is fetched when it is wanted."""
        return self.path / name if self.mirror is None else self.mirror.present(name)

    @property
    def parts(self) -> list[Path]:
        """Finished shards, in order."""
        found = (self.path / FEATURES).glob("part-*.safetensors")
        return sorted(path for path in found if path.stem.removeprefix("part-").isdecimal())

    def part(self, number: int) -> Path:
        """Where shard `number` belongs."""
        return self.path / FEATURES / f"part-{number:05d}.safetensors"

    def sums(self) -> dict[str, FileSum]:
        """Size and hash of every file that the run consists of now, but for the manifest."""
        plan = [PLAN] if (self.path / PLAN).is_file() else []  # an earlier version made none
        paths = [*self.parts, *(self.path / name for name in (LINES, SCORES, VECTORS, QUARANTINE, *plan))]
        return {path.relative_to(self.path).as_posix(): sum_of(path) for path in paths}

    def believed(self, name: str, files: Mapping[str, FileSum] | None = None) -> Path:
        """A file of the run, once it is known to be what the scan wrote.

        Args:
            files: of the manifest, where it has been read: for many files it is not to be read as often.

        Raises:
            RunError: it is not, or it is gone.
        """
        files = self.manifest["files"] if files is None else files
        path, wanted = self.path / name, files.get(name)
        try:
            if self.mirror is not None and wanted is not None:
                self.mirror.present(name, wanted)
            stat = path.stat()
            now = (stat.st_size, stat.st_mtime_ns)
            if wanted is not None and self._believed.get(name) == (*now, wanted):
                return path
            if wanted is None or sum_of(path) != wanted:
                raise self.damaged(name)
        except OSError as error:
            raise self.damaged(name, f"cannot be read ({error.strerror or error})") from None
        self._believed[name] = (*now, wanted)
        return path

    def believe(self, name: str, stat: Sequence[int], found: FileSum) -> None:
        """Take a file that has been hashed elsewhere for what the scan wrote.

        Args:
            stat: its size and time before that.

        Raises:
            RunError: it is not.
        """
        if found != self.manifest["files"].get(name):
            raise self.damaged(name)
        self._believed[name] = (stat[0], stat[1], found)

    @contextmanager
    def _opened(self, name: str) -> Iterator[IO[bytes]]:
        """A file of the run that is believed, open for reading.

        Raises:
            RunError: see `believed`, or it cannot be read to its end.
        """
        path = self.believed(name)
        try:
            with path.open("rb") as handle:
                yield handle
        except OSError as error:
            raise self.damaged(name, f"cannot be read ({error.strerror or error})") from None

    def shards(self, *, tokens: bool = True) -> Iterator[Shard]:
        """Every shard, one at a time; for `tokens` see `Shard.load`.

        Raises:
            RunError: one is missing, damaged, or not where it belongs.
        """
        return self._each_shard(partial(Shard.load, tokens=tokens))

    def outlines(self) -> Iterator[Outline]:
        """The same without the rows, whose hashes stay to be looked at.

        Raises:
            RunError: see `shards`.
        """
        return self._each_shard(Outline.read)

    def _each_shard(self, load: Callable[[Path], Read]) -> Iterator[Read]:
        manifest, covered = self.manifest, 0
        files = manifest.get("files", {})
        names = [name for name in files if name.startswith(f"{FEATURES}/")]
        # One after the other, so that each is loaded while what was hashed is still in memory.
        paths = (self.believed(name, files) for name in names) if manifest["complete"] else self.parts
        for path, shard, why in checked(paths, manifest["fingerprint"], load):
            if shard is None:
                raise self.damaged(path.relative_to(self.path).as_posix(), why)
            covered += shard.span.n_lines
            yield shard
        if covered != (wanted := sum(info["rows"] for info in manifest["data"])):
            raise self.damaged(FEATURES, f"its shards cover {covered:,} lines of {wanted:,}")

    def features(self, position: Positions) -> tuple[Pooled, list[str]]:
        """Stored features of the given scored rows (0-based), in the order they are given, and their hashes."""
        return features_of(self.shards(), position)

    def arrays(self, names: Collection[str] | None = None) -> dict[str, npt.NDArray[Any]]:
        """Scores as arrays over the scored rows in input order: file, line, score, percentile, bank, ...

        Args:
            names: of those that are wanted, which saves reading the others; all if None.

        Raises:
            RunError: they are missing or damaged.
        """
        return {name: column.whole() for name, column in self.columns(names).items()}

    def columns(self, names: Collection[str] | None = None) -> dict[str, Column]:
        """The same, to be read where they are needed; see `arrays`."""
        return self._columns.of(self.source(SCORES), self.manifest, names)

    def source(self, name: str) -> Source:
        """A file of the run, once it is `believed`, to be read where it is needed."""
        path = self.believed(name)
        return Source(path, self._believed[name][:2], partial(self.damaged, name))

    def scores(self) -> Iterator[ScoreLine]:
        """The lines of scores.jsonl.

        Raises:
            RunError: it is missing or damaged.
        """
        with self._opened(LINES) as handle:
            for line in handle:
                yield from_json(line)

    def score_lines(self, wanted: Positions) -> Iterator[tuple[int, ScoreLine]]:
        """The given lines of scores.jsonl (0-based positions), ascending, without parsing the rest.

        Raises:
            RunError: it is missing or damaged.
        """
        yield from ((i, self.parsed(line)) for i, line in self.score_texts(wanted))

    def parsed(self, text: bytes) -> ScoreLine:
        """A line of scores.jsonl.

        Raises:
            RunError: it is none.
        """
        try:
            return cast("ScoreLine", from_json(text))
        except ValueError:
            raise self.damaged(LINES) from None

    def score_texts(self, wanted: Positions) -> Iterator[tuple[int, bytes]]:
        """The same lines as they are written.

        Raises:
            RunError: see `score_lines`.
        """
        if self.mirror is not None:  # first: it may fetch another file into that place
            self.believed(LINES)
        yield from believed_lines(
            self.path / LINES, np.unique(wanted), lambda: self.believed(LINES), lambda: self.damaged(LINES)
        )

    def quarantine(self) -> Iterator[Quarantined]:
        """The records of rows that could not be scored, in input order; one at a time, since they hold rows.

        Raises:
            RunError: they are missing or damaged.
        """
        with self._opened(QUARANTINE) as handle:
            for line in handle:
                yield from_json(line)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for writing; freed by the system even when the process is killed.

        Raises:
            RunError: another process holds it.
        """
        taken = f"{self.called}: another geofilter command is writing this run; wait for it, or scan into another --run"
        with locked(self.path / "lock", taken):
            yield
