"""The scan: read, encode, shard, score. Interrupted at any point, the same call goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from geofilter.build.banks import find
from geofilter.config import BUILT_IN, SCORERS, ScanConfig, fingerprint
from geofilter.encode.model import choose_device, precision_here, resolved_dtype
from geofilter.encode.pair import checked_reader
from geofilter.encode.reader import FeatureReader, token_budget
from geofilter.errors import InputError, RunError
from geofilter.files import RUNS, Notify, file_sha256
from geofilter.rows.lines import read_lines, split_name
from geofilter.rows.records import check_fields
from geofilter.run.banks import exclude
from geofilter.run.score import score
from geofilter.run.store import FORMAT, LABELS, Run
from geofilter.scanning.shards import Progress, encode_shards
from geofilter.target.resolve import resolve
from geofilter.target.target import Target
from geofilter.version import __version__


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
    _refuse_twice(config.data)
    check_fields([Path(path) for path in config.data], config.fields, config.limit)
    files = [_describe(path, config) for path in config.data]
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
        elif "scanned_banks" in run.manifest:
            notify(f"note: the bank learnt from labels no longer counts; geofilter label {run.path} --from "
                   f"{run.path / LABELS} brings it back")  # fmt: skip

        reader = _reader(target, config, notify)
        found = find(config.banks, target, precision_here(config.loading), reader, notify)
        banks = exclude(found, config.exclude_features, BUILT_IN)
        clock.lap("load")
        tokens = encode_shards(config, run, files, reader, started, progress)
        clock.lap("encode")
        run.write_manifest(manifest)  # not complete until all of what scoring writes is there
        manifest["banks"] = [
            # A folder is recorded, so that the row can be explained later; a built-in bank has its name.
            bank.about() if folder in BUILT_IN else bank.about(folder, file_sha256(Path(folder, "bank.safetensors")))
            for bank, folder in zip(banks, config.banks or BUILT_IN, strict=True)
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
            loaded.append(checked_reader(target, config.loading, notify))
        return loaded[0]

    return reader


class _Clock:
    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, name: str) -> None:
        now = time.monotonic()
        self.laps[name], self._last = round(now - self._last, 3), now


def _refuse_twice(data: Sequence[str]) -> None:
    given: dict[Path, str] = {}
    for path in data:
        if (first := given.get(Path(path).resolve())) is not None:
            also = "" if first == path else f" (also as {first})"
            raise InputError(f"{path}: is given twice{also}, by name or through a pattern; give each file once")
        given[Path(path).resolve()] = path


def _describe(path: str, config: ScanConfig) -> dict[str, Any]:
    digest, lines = hashlib.sha256(), 0
    for line in read_lines(Path(path)):
        digest.update(line)
        lines += 1
    if not lines:
        raise InputError(f"{path}: the file is empty; nothing to read")
    rows = lines if config.limit is None else min(config.limit, lines)
    about = {"path": path, "sha256": digest.hexdigest(), "lines": lines, "rows": rows}
    return about | ({"origin": dict(config.origins[path])} if path in config.origins else {})


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
        **({"fields": dict(config.fields)} if config.fields else {}),
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
        differ = list(_differences(run.manifest["encoding"], encoding))
        if differ:
            raise RunError(
                f"{run.path}: holds a run of another configuration ({'; '.join(differ)}); give another --run"
            )
    return run


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[str]:
    if old["data"] != new["data"]:
        was, now = ([path for path, _ in found["data"]] for found in (old, new))
        changed = [path for path, sha in new["data"] if dict(old["data"]).get(path, sha) != sha]
        yield f"data: {_short(was)}, now {_short(now)}" if was != now else f"data: {_short(changed)} changed since"
    for key in {**old, **new}:
        if key != "data" and old.get(key) != new.get(key):
            yield f"{key}: {_short(old.get(key))}, now {_short(new.get(key))}"


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
