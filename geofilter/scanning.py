"""The scan: read, encode, shard, score. Interrupted at any point, the same call goes on where it stopped."""

from __future__ import annotations

import hashlib
import itertools
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter import __version__, doctor, seeding
from geofilter.config import ScanConfig, fingerprint
from geofilter.cut import split_name
from geofilter.errors import InputError, RunError, TargetError
from geofilter.features import FeatureReader, token_budget
from geofilter.inputs import read_lines
from geofilter.model import choose_device, precision, resolved_dtype
from geofilter.paths import Notify, file_sha256
from geofilter.pooled import Pooled
from geofilter.records import Rejected, Row, RowError, parse_line
from geofilter.scorers import SCORERS
from geofilter.scoring import score
from geofilter.store import FORMAT, RUNS, Run, Shard, rejected_of, shard_lines
from geofilter.style import STYLE, style_features
from geofilter.targets import Target, resolve
from geofilter.tokens import Encoded, encode_rows

SHARD_BYTES = 1 << 20
"""a shard also ends at this many bytes of input, so that long rows do not make a long unit of resume"""
SLICE = 32
"""lines made ready at once while the GPU is busy"""
Progress = Callable[[int, int], None]


def _quiet(*_: Any) -> None:
    return None


def scan(
    config: ScanConfig,
    run_dir: Path | None = None,
    *,
    offline: bool = False,
    notify: Notify = _quiet,
    started: Callable[[int, int], None] = _quiet,
    progress: Progress = _quiet,
) -> Run:
    """Encode and score the rows of `config.data`; return the finished run.

    Args:
        run_dir: run folder; by default `.geofilter/<data stem>-<fingerprint>` of the working folder.
        notify: told one line at a time what takes long.
        started: told once how many rows there are, and how many of them earlier shards hold already.
        progress: told rows and tokens done, after each batch.

    Raises:
        InputError, TargetError, BankError, RunError: see `errors`.
    """
    if config.scorer not in SCORERS:
        raise InputError(f"--scorer {config.scorer}: unknown; use {', '.join(SCORERS)}")
    clock = _Clock()
    files = [_describe(path, config.limit) for path in config.data]
    if len({Path(f["path"]).resolve() for f in files}) < len(files):
        raise InputError("the same file is given twice; give each file once")
    target = resolve(config.target, offline=offline, notify=notify)
    for text in target.notes:
        notify(f"note: {text}")
    encoding = _encoding(config, files, target)
    run = _claim(config, encoding, run_dir)
    clock.lap("prepare")
    with run.lock():
        manifest = _manifest(config, encoding, files, target)
        if not (run.path / "manifest.json").is_file():
            run.write_manifest(manifest)

        reader = _reader(target, config, notify)
        banks = seeding.find(config.banks, target, precision(config.loading), reader, notify)
        clock.lap("load")
        tokens = encode_shards(config, run, files, reader, started, progress)
        clock.lap("encode")
        run.write_manifest(manifest)  # not complete until all of what scoring writes is there
        manifest["banks"] = [
            # A folder is recorded, so that the row can be explained later; a built-in bank has its name.
            bank.about()
            if folder in seeding.BUILT_IN
            else bank.about(folder, file_sha256(Path(folder, "bank.safetensors")))
            for bank, folder in zip(banks, config.banks or seeding.BUILT_IN, strict=True)
        ]
        manifest |= score(run, banks, config.scorer, [f["path"] for f in files])
        clock.lap("score")
        manifest["seconds"], manifest["tokens_encoded_now"] = clock.laps, tokens
        manifest["complete"] = True
        run.write_manifest(manifest)
    return run


def _reader(target: Target, config: ScanConfig, notify: Notify) -> Callable[[], FeatureReader]:
    """Model and SAE, loaded when they are first wanted: a run that is complete needs neither."""
    loaded: list[FeatureReader] = []

    def reader() -> FeatureReader:
        if not loaded:
            loaded.append(doctor.checked_reader(target, config.loading, notify))
        return loaded[0]

    return reader


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = round(now - self._last, 3), now


def _describe(path: str, limit: int | None) -> dict[str, Any]:
    digest, lines = hashlib.sha256(), 0
    for line in read_lines(Path(path)):
        digest.update(line)
        lines += 1
    if not lines:
        raise InputError(f"{path}: the file is empty; nothing to read")
    rows = lines if limit is None else min(limit, lines)
    return {"path": path, "sha256": digest.hexdigest(), "lines": lines, "rows": rows}


def _encoding(config: ScanConfig, files: list[dict[str, Any]], target: Target) -> dict[str, Any]:
    """Everything the stored features depend on."""
    return {
        "data": [[f["path"], f["sha256"]] for f in files],
        "target": target.fingerprint,
        "device": choose_device(config.loading.device).type,
        "dtype": resolved_dtype(config.loading),
        "sae_dtype": config.loading.sae_dtype,
        "system": config.system,
        "max_tokens": config.max_tokens,
        "limit": config.limit,
        "shard_rows": config.shard_rows,
        "token_budget": token_budget(choose_device(config.loading.device)),
        "format": FORMAT,
    }


def _claim(config: ScanConfig, encoding: dict[str, Any], run_dir: Path | None) -> Run:
    """The run's folder, made if need be; refused when it holds a run of another configuration."""
    name = f"{split_name(Path(config.data[0]))[0]}-{fingerprint(encoding)[:8]}"
    run = Run(run_dir or Path(RUNS) / name)
    try:
        (run.path / "features").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{run.path}: the run folder cannot be made ({error.strerror}); give a writable one with --run"
        ) from None
    if (run.path / "manifest.json").is_file():
        old = run.manifest["encoding"]
        differ = [
            f"{k}: {_short(old.get(k))}, now {_short(encoding[k])}" for k in encoding if old.get(k) != encoding[k]
        ]
        if differ:
            raise RunError(
                f"{run.path}: holds a run of another configuration ({'; '.join(differ)}); give another --run"
            )
    return run


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 90 else text[:87] + "..."


def _manifest(
    config: ScanConfig, encoding: dict[str, Any], files: list[dict[str, Any]], target: Target
) -> dict[str, Any]:
    packages = ("torch", "transformers", "safetensors", "numpy", "scipy")
    return {
        "format": FORMAT,
        "complete": False,
        "geofilter": __version__,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "fingerprint": fingerprint(encoding),
        "encoding": encoding,
        "target": target.about(),
        "sae_folder": str(target.sae_dir),
        "loading": asdict(config.loading),
        "data": files,
        "scorer": config.scorer,
        "seed": 0,
    }


def encode_shards(
    config: ScanConfig,
    run: Run,
    files: list[dict[str, Any]],
    reader: Callable[[], FeatureReader],
    started: Callable[[int, int], None],
    progress: Progress,
) -> int:
    """Make every shard that is not there yet; return the tokens encoded now."""
    lines = _lines(files)
    present = set(run.parts)
    done = 0
    for part in run.parts:
        done += shard_lines(part)
        if config.on_error == "fail" and (found := rejected_of(part)):
            raise InputError(_failing(found[0]["file"], found[0]["line"], found[0]["error"]))
    started(sum(f["rows"] for f in files), done)
    ahead = _Ahead(_prepared(config, run, files, lines, present, reader))
    tokens = 0
    while ready := ahead.take():
        if config.on_error == "fail" and ready.rejected:
            raise InputError(_failing(ready.rejected[0].file, ready.rejected[0].line, ready.rejected[0].error))
        ready.encode(reader(), progress, ahead.step).save(ready.path)
        tokens += sum(len(e.ids) for e in ready.encoded)
    return tokens


def _failing(file: str, line: int, error: str) -> str:
    return f"{file}, line {line}: {error} (--on-error quarantine sets such rows aside)"


Line = tuple[int, int, bytes]


def _lines(files: list[dict[str, Any]]) -> Iterator[Line]:
    """(file, 1-based line, bytes) of everything to scan, in input order."""
    for i, info in enumerate(files):
        for number, line in enumerate(itertools.islice(read_lines(Path(info["path"])), info["rows"]), start=1):
            yield i, number, line


def _next_chunk(lines: Iterator[Line], shard_rows: int) -> list[Line]:
    chunk: list[Line] = []
    size = 0
    for line in lines:
        chunk.append(line)
        size += len(line[2])
        if len(chunk) >= shard_rows or size >= SHARD_BYTES:
            break
    return chunk


@dataclass(slots=True)
class _Ready:
    """The rows of a shard, tokenised."""

    path: Path
    n_lines: int
    rows: list[tuple[int, Row]] = field(default_factory=list)
    encoded: list[Encoded] = field(default_factory=list)
    style: list[npt.NDArray[np.float32]] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)

    def add(self, lines: Sequence[Line], config: ScanConfig, files: list[dict[str, Any]], tokenizer: Any) -> None:
        """Parse and tokenise some of the shard's lines."""
        parsed = [(index, line, parse_line(line, files[index]["path"], number)) for index, number, line in lines]
        usable = [row for _, _, row in parsed if isinstance(row, Row)]
        encoded = iter(encode_rows(usable, tokenizer, config.max_tokens, config.system))
        for index, line, row in parsed:
            if isinstance(row, Rejected):
                self.rejected.append(row)
                continue
            found = next(encoded)
            if isinstance(found, RowError):
                self.rejected.append(Rejected(row.file, row.line, str(found), line.rstrip(b"\r\n")))
                continue
            self.rows.append((index, row))
            self.encoded.append(found)
            self.style.append(style_features(row.response))

    def encode(self, reader: FeatureReader, progress: Progress, meanwhile: Callable[[], None]) -> Shard:
        """Read the rows' features."""
        progress(len(self.rejected), 0)
        features = reader.read(self.encoded, progress, meanwhile=meanwhile)
        for f, (_, row) in zip(features, self.rows, strict=True):
            if not f.n_tokens or not np.isfinite(f.values).all():
                raise TargetError(f"{row.file}, line {row.line}: activations are not finite; scan with --dtype float32")
        return Shard(
            file=np.array([i for i, _ in self.rows], np.int32),
            line=np.array([row.line for _, row in self.rows], np.int64),
            sha256=np.frombuffer(bytes.fromhex("".join(r.sha256 for _, r in self.rows)), np.uint8).reshape(-1, 32),
            truncated=np.array([e.truncated for e in self.encoded], bool),
            style=np.array(self.style, np.float32).reshape(-1, len(STYLE)),
            pooled=Pooled.of(features, reader.encoder.d_in),
            rejected=tuple(self.rejected),
            n_lines=self.n_lines,
        )


def _prepared(
    config: ScanConfig,
    run: Run,
    files: list[dict[str, Any]],
    lines: Iterator[Line],
    present: set[Path],
    reader: Callable[[], FeatureReader],
) -> Iterator[_Ready | None]:
    """Every shard that is not there yet, made ready; None after each slice of its lines but the last."""
    for number in itertools.count():
        path = run.part(number)
        if path in present:
            for _ in itertools.islice(lines, shard_lines(path)):
                pass
            continue
        chunk = _next_chunk(lines, config.shard_rows)
        if not chunk:
            return
        ready = _Ready(path, len(chunk))
        for start in range(0, len(chunk), SLICE):
            if start:
                yield None
            ready.add(chunk[start : start + SLICE], config, files, reader().tokenizer)
        yield ready


class _Ahead:
    """Makes the next shard ready while the GPU is busy with this one; on one thread, in small steps.

    A second thread would take turns with the one that feeds the GPU at every operation, and slow it down.
    """

    def __init__(self, prepared: Iterator[_Ready | None]) -> None:
        self._prepared = prepared
        self._next: _Ready | None = None

    def step(self) -> None:
        """One slice of lines more, if the next shard is not ready yet."""
        if self._next is None:
            self._next = next(self._prepared, None)

    def take(self) -> _Ready | None:
        """The next shard; None when there is none."""
        found, self._next = self._next, None
        return found or next(filter(None, self._prepared), None)
