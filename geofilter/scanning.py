"""The scan: read, encode, shard, score. Interrupted at any point, the same call goes on where it stopped."""

from __future__ import annotations

import hashlib
import itertools
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from geofilter import __version__, doctor, seeding
from geofilter.config import ScanConfig, fingerprint
from geofilter.cut import split_name
from geofilter.errors import InputError, RunError, TargetError
from geofilter.features import TOKEN_BUDGET, FeatureReader
from geofilter.inputs import read_lines
from geofilter.model import choose_device, precision, resolved_dtype
from geofilter.paths import Notify, file_sha256
from geofilter.pooled import Pooled
from geofilter.records import Rejected, Row, RowError, parse_line
from geofilter.run_banks import exclude
from geofilter.scorers import SCORERS
from geofilter.scoring import score
from geofilter.store import FORMAT, RUNS, Run, Shard, rejected_of, shard_lines
from geofilter.style import STYLE, style_features
from geofilter.targets import Target, resolve
from geofilter.tokens import Encoded, encode_row

SHARD_BYTES = 1 << 20
"""a shard also ends at this many bytes of input, so that long rows do not make a long unit of resume"""
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
        found = seeding.find(config.banks, target, precision(config.loading), reader, notify)
        banks = exclude(found, config.exclude_features, config.scorer)
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
        "token_budget": TOKEN_BUDGET,
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
    tokens = 0
    for number in itertools.count():
        path = run.part(number)
        if path in present:
            for _ in itertools.islice(lines, shard_lines(path)):
                pass
            continue
        chunk = _next_chunk(lines, config.shard_rows)
        if not chunk:
            return tokens
        shard, n = _encode_chunk(chunk, config, files, reader(), progress)
        shard.save(path)
        tokens += n
    raise AssertionError("unreachable")


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


def _encode_chunk(
    chunk: Sequence[Line],
    config: ScanConfig,
    files: list[dict[str, Any]],
    reader: FeatureReader,
    progress: Progress,
) -> tuple[Shard, int]:
    rows: list[tuple[int, Row]] = []
    encoded: list[Encoded] = []
    rejected: list[Rejected] = []
    for index, number, line in chunk:
        file = files[index]["path"]
        row = parse_line(line, file, number)
        if isinstance(row, Row):
            try:
                encoded.append(encode_row(row, reader.tokenizer, config.max_tokens, config.system))
                rows.append((index, row))
                continue
            except RowError as error:
                row = Rejected(file, number, str(error), line.rstrip(b"\r\n"))
        if config.on_error == "fail":
            raise InputError(_failing(file, number, row.error))
        rejected.append(row)
    progress(len(rejected), 0)
    features = reader.read(encoded, progress)
    for f, (_, row) in zip(features, rows, strict=True):
        if not f.n_tokens or not np.isfinite(f.values).all():
            raise TargetError(f"{row.file}, line {row.line}: activations are not finite; scan with --dtype float32")
    shard = Shard(
        file=np.array([i for i, _ in rows], np.int32),
        line=np.array([row.line for _, row in rows], np.int64),
        sha256=np.frombuffer(bytes.fromhex("".join(r.sha256 for _, r in rows)), np.uint8).reshape(-1, 32),
        truncated=np.array([e.truncated for e in encoded], bool),
        style=np.array([style_features(r.response) for _, r in rows], np.float32).reshape(-1, len(STYLE)),
        pooled=Pooled.of(features, reader.encoder.d_in),
        rejected=tuple(rejected),
        n_lines=len(chunk),
    )
    return shard, sum(len(e.ids) for e in encoded)
