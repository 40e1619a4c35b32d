"""The run folder: shards of row features, scores, quarantine and manifest; every write is atomic.

    manifest.json            what was scanned, with what, and the counts
    features/part-00000.safetensors
    scores.jsonl             one line per scored row, input order
    scores.safetensors       the same numbers as arrays, for fast cuts
    quarantine.jsonl         rows that could not be scored

A finished shard is never computed again; it is the unit of resume.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import F32, I32, Digests, Positions
from geofilter.bank.features import Pooled
from geofilter.errors import RunError
from geofilter.files import atomic, locked, write_json
from geofilter.rows.reading import Reading
from geofilter.rows.records import Rejected
from geofilter.run.manifest import Manifest, Quarantined, RowScore, ScoreLine, Started

LABELS = "labels.jsonl"
"""in a run folder: the labels given to `geofilter label`"""
SCORES = "scores.safetensors"
"""in a run folder: the numbers of scores.jsonl as arrays"""
FORMAT = 4
_ARRAYS = ("file", "line", "sha256", "content", "response_tokens", "windows", "style", "n_turns", "shape")
"""of a shard, as they are stored"""


@dataclass(frozen=True, slots=True, eq=False)
class Shard:
    """Consecutive input lines: the features of the scored ones and the rejected ones."""

    file: I32
    """(n,) position of the row's file in the manifest's list"""
    line: npt.NDArray[np.int64]
    """(n,) 1-based"""
    sha256: Digests
    """(n, 32) of the row's bytes"""
    content: Digests
    """(n, 32) of what is read of the row, see `Row.content_sha256`"""
    response_tokens: I32
    """(n,) of the row; `pooled.n_tokens` of them were read, the others are outliers"""
    windows: I32
    """(n,) windows it was read in"""
    style: F32
    """(n, 9), see `style.STYLE`"""
    n_turns: I32
    """(n,) messages of the row"""
    shape: I32
    """(n,) position of its shape in `keys.SHAPES`"""
    source: tuple[str, ...]
    """(n,) where the row says it comes from, see `records.source_of`"""
    pooled: Pooled
    remarks: Mapping[str, int] = field(default_factory=dict)
    """rows of which something is told, see `shapes.REMARKS`"""
    rejected: tuple[Rejected, ...] = ()
    n_lines: int = 0
    """input lines covered, rejected ones and those passed over included"""

    def shas(self) -> list[str]:
        """Hex digests."""
        return [bytes(s).hex() for s in self.sha256]

    def save(self, path: Path) -> None:
        """Write the shard under a temporary name, then rename it into place."""
        from safetensors.numpy import save

        arrays = {name: getattr(self, name) for name in _ARRAYS}
        arrays |= self.pooled.arrays("pooled.")
        # As bytes, not as metadata: the header of a safetensors file is limited, a broken line is not.
        arrays["rejected"] = _packed([r.to_json() for r in self.rejected])
        arrays["source"] = _packed(self.source)
        meta = {"n_lines": str(self.n_lines), "remarks": json.dumps(dict(self.remarks))}
        with atomic(path) as handle:
            handle.write(save({k: np.ascontiguousarray(v) for k, v in arrays.items()}, metadata=meta))

    @classmethod
    def load(cls, path: Path) -> Shard:
        """Read a shard; its `rejected` are left to `rejected_of`.

        Raises:
            RunError: the file is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            a = load_file(path)
        except (OSError, SafetensorError) as error:
            raise RunError(f"{path}: damaged ({error}); delete this file and scan again") from None
        meta = _meta(path)
        return cls(
            a["file"], a["line"], a["sha256"], a["content"], a["response_tokens"], a["windows"], a["style"],
            a["n_turns"], a["shape"], tuple(_unpacked(a["source"])), Pooled.from_arrays(a, "pooled."),
            json.loads(meta["remarks"]), (), int(meta["n_lines"]),
        )  # fmt: skip


def _packed(values: Sequence[Any]) -> npt.NDArray[np.uint8]:
    return np.frombuffer(json.dumps(list(values)).encode(), np.uint8)


def _unpacked(array: npt.NDArray[np.uint8]) -> list[Any]:
    values: list[Any] = json.loads(array.tobytes())
    return values


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as handle:
            yield handle
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path}: damaged ({error}); delete this file and scan again") from None


def rejected_of(path: Path) -> list[Quarantined]:
    """The quarantine records a shard carries."""
    with _opened(path) as handle:
        return _unpacked(handle.get_tensor("rejected"))


def shard_lines(path: Path) -> int:
    """How many input lines a shard covers."""
    return int(_meta(path)["n_lines"])


def _meta(path: Path) -> dict[str, str]:
    with _opened(path) as handle:
        found: dict[str, str] = handle.metadata()
        return found


class Run:
    """A run folder on disk."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path) -> Run:
        """A finished run.

        Raises:
            RunError: no such run, or one that is not complete.
        """
        run = cls(path)
        if not (path / "manifest.json").is_file():
            raise RunError(f"{path}: not a run folder (no manifest.json); make one with geofilter scan")
        if run.manifest.get("format") != FORMAT:
            raise RunError(f"{path}: run format {run.manifest.get('format')!r} is not readable here; scan again")
        if not run.manifest["complete"]:
            raise RunError(f"{path}: the scan is not complete; {run.remedy}")
        return run

    @property
    def remedy(self) -> str:
        """What finishes the run, or why nothing does, in words."""
        command, failed = self.manifest.get("command"), self.manifest.get("failed")
        if failed:
            return f"it failed: {failed}"
        return f"go on with: {shlex.join(command)}" if command else "run the same geofilter scan command again"

    def damaged(self) -> RunError:
        """The error of a run whose scores.jsonl does not hold what its score arrays say."""
        return RunError(f"{self.path}: scores.jsonl is damaged; run geofilter scan again")

    @property
    def manifest(self) -> Manifest:
        """The manifest as it stands on disk.

        Raises:
            RunError: it is damaged.
        """
        try:
            value: Manifest = json.loads((self.path / "manifest.json").read_text("utf-8"))
            if not isinstance(value, dict):
                raise ValueError("no object")
        except ValueError as error:
            raise RunError(f"{self.path / 'manifest.json'}: damaged ({error}); scan again into a new folder") from None
        return value

    @property
    def reading(self) -> Reading:
        """How the scan was told to read rows; every later reading of them goes by it."""
        about = self.manifest["encoding"]
        only = tuple((column, value) for column, value in about.get("only", ()))
        return Reading(about.get("fields", {}), about["train"], about["score_thinking"], only)

    def write_manifest(self, value: Started) -> None:
        """Replace the manifest."""
        write_json(self.path / "manifest.json", value)

    @property
    def parts(self) -> list[Path]:
        """Finished shards, in order."""
        return sorted((self.path / "features").glob("part-*.safetensors"))

    def part(self, number: int) -> Path:
        """Where shard `number` belongs."""
        return self.path / "features" / f"part-{number:05d}.safetensors"

    def shards(self) -> Iterator[Shard]:
        """Every shard, one at a time."""
        for path in self.parts:
            yield Shard.load(path)

    def hashes(self) -> Digests:
        """(n, 32) sha256 of the scored rows, in input order; nothing else of the shards is read.

        Raises:
            RunError: a shard is damaged.
        """
        parts = [np.zeros((0, 32), np.uint8)]
        for path in self.parts:
            with _opened(path) as handle:
                parts.append(handle.get_tensor("sha256"))
        return np.concatenate(parts)

    def features(self, position: Positions) -> tuple[Pooled, list[str]]:
        """Stored features of the given scored rows (0-based), in the order they are given, and their hashes."""
        order = np.argsort(position, kind="stable")
        ascending = position[order]
        parts: list[Pooled] = []
        shas: list[str] = []
        start = 0
        for shard in self.shards():
            n = len(shard.pooled)
            here = ascending[(ascending >= start) & (ascending < start + n)] - start
            start += n
            if len(here) or not parts:  # of no rows the first shard tells the width
                parts.append(shard.pooled.take(here))
                shas += [bytes(shard.sha256[i]).hex() for i in here]
        back = np.argsort(order)
        return Pooled.concat(parts).take(back), [shas[i] for i in back]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Scores as arrays over the scored rows in input order: file, line, score, percentile, bank, ...

        Raises:
            RunError: they are missing or damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            arrays: dict[str, npt.NDArray[Any]] = load_file(self.path / SCORES)
        except (OSError, SafetensorError) as error:
            raise RunError(f"{self.path}: scores are missing or damaged ({error}); run geofilter scan again") from None
        return arrays

    def position(self, detail: RowScore) -> int:
        """Where among the scored rows (0-based) the row of a line of scores.jsonl stands."""
        arrays, files = self.arrays(), [f["path"] for f in self.manifest["data"]]
        here = (arrays["line"] == detail["line"]) & (arrays["file"] == files.index(detail["file"]))
        return int(np.flatnonzero(here)[0])

    def scores(self) -> Iterator[ScoreLine]:
        """The lines of scores.jsonl."""
        import jsonlines

        with jsonlines.open(self.path / "scores.jsonl") as reader:
            yield from reader

    def score_lines(self, wanted: Positions) -> Iterator[tuple[int, ScoreLine]]:
        """The given lines of scores.jsonl (0-based positions), ascending, without parsing the rest.

        Raises:
            RunError: it has fewer lines.
        """
        ascending = iter(np.unique(wanted).tolist())
        following = next(ascending, None)
        with (self.path / "scores.jsonl").open("rb") as handle:
            for i, line in enumerate(handle):
                if following is None:
                    return
                if i == following:
                    yield i, json.loads(line)
                    following = next(ascending, None)
        if following is not None:
            raise self.damaged()

    def quarantine(self) -> list[Quarantined]:
        """The records of rows that could not be scored, in input order."""
        return [record for path in self.parts for record in rejected_of(path)]

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for writing; freed by the system even when the process is killed.

        Raises:
            RunError: another process holds it.
        """
        taken = f"{self.path}: another scan is writing this run; wait for it or give another --run"
        with locked(self.path / "lock", taken):
            yield
