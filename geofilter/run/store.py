"""The run folder: shards of row features, scores, quarantine and manifest; every write is atomic.

    manifest.json            what was scanned, with what, and the counts
    features/part-00000.safetensors
    scores.jsonl             one line per scored row, input order
    scores.safetensors       the same numbers as arrays, for fast cuts
    vectors.safetensors      what each row is about, to compare rows by
    quarantine.jsonl         rows that could not be scored
    scoring/                 while many rows are scored: what is scored already, see `scoring`

A finished shard is the unit of resume. Every file is held against the manifest's hashes, the manifest against its own.
"""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import numpy.typing as npt

from geofilter.arrays import Digests, Positions
from geofilter.bank.features import Pooled
from geofilter.errors import RunError
from geofilter.files import from_json, locked, own_bytes, write_json
from geofilter.rows.reading import Reading
from geofilter.run.lines_at import believed_lines
from geofilter.run.manifest import Least, Manifest, Quarantined, ScoreLine, Started
from geofilter.run.score_arrays import SCORE_ARRAYS, read_scores
from geofilter.run.shard import Outline, Read, Shard, checked, features_of
from geofilter.sums import FileSum, broken, sealed, sum_of
from geofilter.together import mode_of
from geofilter.typed import check_typed

MANIFEST = "manifest.json"
FEATURES = "features"
LINES = "scores.jsonl"
QUARANTINE = "quarantine.jsonl"
"""in a run folder, see above"""
LABELS = "labels.jsonl"
"""in a run folder: the labels given to `geofilter label`"""
LABELLED = "labelled"
"""in a run folder: the bank learnt from them"""
SCORES = "scores.safetensors"
"""in a run folder: the numbers of scores.jsonl as arrays"""
VECTORS = "vectors.safetensors"
"""in a run folder: see `run.vectors`"""
SCORING = "scoring"
"""in the folder of a run that is being scored: see `run.scoring`"""
FORMAT = 6


class Run:
    """A run folder on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._believed: dict[str, tuple[int, int, FileSum]] = {}
        """of files that were held against their hash: size and time then, and the hash"""
        self._scores: tuple[tuple[int, int, FileSum], dict[str, npt.NDArray[Any]]] | None = None
        """the scores as they were read last, and of which file"""

    @classmethod
    def open(cls, path: Path, scoring: str = "") -> Run:
        """A finished run.

        Args:
            scoring: a command; a run whose scoring by it was stopped is taken too.

        Raises:
            RunError: no such run, or one that is not complete.
        """
        run = cls(path)
        if not (path / MANIFEST).is_file():
            raise RunError(f"{path}: not a run folder (no manifest.json); make one with geofilter scan")
        manifest = run.manifest
        if manifest.get("format") != FORMAT:
            raise RunError(f"{path}: run format {manifest.get('format')!r} is not readable here; scan again")
        if not manifest["complete"] and not (scoring and manifest.get("scoring") == scoring):
            raise RunError(f"{path}: the scan is not complete; {run.remedy}")
        return run

    @property
    def remedy(self) -> str:
        """What finishes the run, or why nothing does, in words."""
        manifest = self.manifest
        if manifest.get("failed"):
            return f"it failed: {manifest['failed']}"
        if "scoring" in manifest:
            name = manifest["scoring"]
            words = ["geofilter", name, str(self.path), "--from", str(self.path / LABELS)]
            return f"geofilter {name} was stopped while it scored the rows anew; go on with: {shlex.join(words)}"
        return f"go on with: {self._again}" if "command" in manifest else "run the same geofilter scan command again"

    @property
    def _again(self) -> str:
        """The scan that makes this run."""
        command = self.manifest.get("command")
        return shlex.join(command) if command else "the same geofilter scan"

    def damaged(self, name: str, why: str = "is not what the scan wrote") -> RunError:
        """The error of a file of the run that is not believed."""
        return RunError(f"{self.path / name}: {why}; make it again with: {self._again}")

    @property
    def manifest(self) -> Manifest:
        """The manifest as it stands on disk.

        Raises:
            RunError: it is damaged.
        """
        path = self.path / MANIFEST
        try:
            value: Manifest = from_json(own_bytes(path))
            if not isinstance(value, dict):
                raise ValueError("no object")
            check_typed(value.get("format"), int, "format")
            wrong = broken(value) if value.get("format") == FORMAT else None
            if wrong:
                raise ValueError(f"its field {wrong} is not what was written")
            if value.get("format") == FORMAT:
                check_typed(value, Least)
        except (OSError, ValueError) as error:
            raise RunError(
                f"{path}: damaged ({error}); run the same geofilter scan again, which writes it anew"
            ) from None
        return value

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
        """Replace the manifest; once the run is complete, what it was put together from goes."""
        write_json(self.path / MANIFEST, sealed(value))
        if value["complete"]:
            shutil.rmtree(self.path / SCORING, ignore_errors=True)

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
        paths = [*self.parts, self.path / LINES, self.path / SCORES, self.path / VECTORS, self.path / QUARANTINE]
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

    def hashes(self) -> Digests:
        """(n, 32) sha256 of the scored rows, in input order.

        Raises:
            RunError: the scores are missing or damaged.
        """
        found: Digests = self.arrays(["sha256"])["sha256"]
        return found

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
        from safetensors import SafetensorError

        path = self.believed(SCORES)
        if self._scores is None or self._scores[0] != self._believed[SCORES]:
            self._scores = self._believed[SCORES], {}
        known = self._scores[1]
        if missing := [name for name in names or SCORE_ARRAYS if name not in known]:
            try:
                known |= read_scores(path, self.manifest, missing if names or known else None, known)
            except (OSError, KeyError, ValueError, SafetensorError) as error:
                raise self.damaged(SCORES, f"damaged ({error})") from None
        return {name: known[name] for name in names} if names else dict(known)

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
        taken = f"{self.path}: another geofilter command is writing this run; wait for it, or scan into another --run"
        with locked(self.path / "lock", taken):
            yield
