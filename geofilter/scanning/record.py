"""What a scan records of itself: its inputs, all that its features depend on, and the manifest it starts with."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import cast

from geofilter.bank.bank import Bank
from geofilter.config import BUILT_IN, ScanConfig, fingerprint, typed
from geofilter.encode.model import choose_device, resolved_dtype
from geofilter.encode.need import token_budget
from geofilter.errors import InputError, RunError
from geofilter.files import RUNS, Notify
from geofilter.rows.packing import split_name
from geofilter.run.manifest import (
    Encoding,
    InputFile,
    LoadingAbout,
    Manifest,
    Scored,
    Started,
    TargetAbout,
)
from geofilter.run.names import FEATURES, MANIFEST
from geofilter.run.shard import Shard
from geofilter.run.store import FORMAT, Run
from geofilter.sums import FileSum
from geofilter.target.sae_folder import source_of
from geofilter.target.target import Target
from geofilter.text import shorten
from geofilter.version import __version__


def encoding_of(config: ScanConfig, files: Sequence[InputFile], target: Target) -> Encoding:
    """Everything the stored features depend on."""
    out: Encoding = {
        "data": [[f["path"], f["sha256"]] for f in files],
        "target": target.fingerprint,
        "device": choose_device(config.loading.device).type,
        "dtype": resolved_dtype(config.loading),
        "sae_dtype": config.loading.sae_dtype,
        "system": config.system,
        "max_tokens": config.max_tokens,
        "train": config.train,
        "score_thinking": config.score_thinking,
        "token_shares": not config.no_token_shares,
        "limit": config.limit,
        "shard_rows": config.shard_rows,
        "token_budget": token_budget(choose_device(config.loading.device)),
        "format": FORMAT,
    }
    if config.fields:
        out["fields"] = dict(config.fields)
    if config.with_loss:
        out["with_loss"] = True
    if config.pairs != "chosen":
        out["pairs"] = config.pairs
    if config.only:
        out["only"] = [list(pair) for pair in config.reading.only]
    return out


def claim(
    config: ScanConfig, encoding: Encoding, target: Target, run_dir: Path | None, notify: Notify, *, parts: bool = True
) -> Run:
    """The run's folder, made if need be; refused when it holds a run of another configuration.

    A manifest that is damaged goes, where the shards are of this configuration.

    Args:
        parts: of a run in a store fetch the shards that are there.

    Raises:
        InputError: it cannot be made.
        RunError: it holds another run.
    """
    name = f"{split_name(Path(config.data[0]))[0]}-{fingerprint(encoding)[:8]}"
    run = Run(run_dir or Path(RUNS) / name)
    if run.mirror is not None:
        run.mirror.pull(parts=parts)
    try:
        (run.path / FEATURES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{run.path}: the run folder cannot be made ({error.strerror}); give a writable one with --run"
        ) from None
    if (run.path / MANIFEST).is_file():
        try:
            held = run.manifest
        except RunError as error:
            if not ((run.path / "lock").exists() or run.parts):
                raise  # nothing else here is of a run
            _refuse_shards_of_another(run, fingerprint(encoding))
            notify(f"note: {str(error).partition('; ')[0]}; it is written anew")
            (run.path / MANIFEST).unlink()
            return run
        if not isinstance(held.get("encoding"), dict):
            raise RunError(f"{run.path / MANIFEST}: not that of a run; give another --run")
        differ = list(_differences(held["encoding"], encoding))
        gates = held["target"].get("llama_scope_gate"), target.llama_scope_gate
        if all(gates) and gates[0] != gates[1]:
            differ.append(f"Llama Scope gate: {gates[0]}, now {gates[1]}")
        if differ:
            raise RunError(
                f"{run.called}: holds a run of another configuration ({'; '.join(differ)}); give another --run"
            )
    return run


def _refuse_shards_of_another(run: Run, wanted: str) -> None:
    """Without its manifest the shards tell what a run is of."""
    for path in run.parts:
        try:
            found = Shard.load(path).span.fingerprint
        except RunError:
            continue  # it is made again
        if found != wanted:
            raise RunError(f"{run.called}: holds a run of another configuration; give another --run")


def _differences(old: Encoding, new: Encoding) -> Iterator[str]:
    if old["data"] != new["data"]:
        was, now = ([path for path, _ in found["data"]] for found in (old, new))
        changed = [path for path, sha in new["data"] if dict(old["data"]).get(path, sha) != sha]
        yield (
            f"data: {_abbreviated(was)}, now {_abbreviated(now)}"
            if was != now
            else f"data: {_abbreviated(changed)} changed since"
        )
    for key in {**old, **new}:
        if key != "data" and old.get(key) != new.get(key):
            yield f"{key}: {_abbreviated(old.get(key))}, now {_abbreviated(new.get(key))}"


def _abbreviated(value: object) -> str:
    return shorten(json.dumps(value), 90)


def _command(config: ScanConfig, run_dir: Path | None) -> list[str]:
    """The words that make the same scan in the same folder; a data set of the hub has its name in them.

    A file in a store has its URL. A saved data set has the file that was made of it: that is the same input.
    """
    words, options = ["geofilter", "scan"], typed(config, config.typed)
    for path in config.data:
        origin = config.origins.get(path, {})
        words.append(f"{origin['id']}@{origin['revision']}" if "id" in origin else origin.get("url", path))
        if "id" in origin and "--split" not in options:  # all such inputs are of one
            options += ["--split", origin["split"], "--data-config", origin["config"]]
    return [*words, *options, *(() if run_dir is None else ("--run", Run(run_dir).called))]


def begin(
    config: ScanConfig, encoding: Encoding, files: list[InputFile], target: Target, run_dir: Path | None
) -> Started:
    """Make the manifest that a scan starts with.

    Args:
        run_dir: the run folder, where it was named.
    """
    packages = ("torch", "transformers", "safetensors", "numpy", "scipy")
    return {
        "format": FORMAT,
        "complete": False,
        "geofilter": __version__,
        "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
        "fingerprint": fingerprint(encoding),
        "encoding": encoding,
        "target": _about(target),
        "sae_folder": str(target.sae_dir),
        "loading": cast("LoadingAbout", asdict(config.loading)),
        "data": files,
        "scorer": config.scorer,
        "seed": 0,
        "command": _command(config, run_dir),
    }


def finish(
    begun: Started,
    banks: Sequence[tuple[Bank, str]],
    scored: Scored,
    seconds: dict[str, float],
    tokens: int,
    files: dict[str, FileSum],
) -> Manifest:
    """Make the manifest of a scan that is done.

    Args:
        banks: each with its folder, or the name of a built-in one.
        seconds: of each stage.
        tokens: encoded by this call.
        files: of the run, see `Run.sums`.
    """
    return {
        **begun,
        # A folder is recorded, so that the row can be explained later; a built-in bank has its name.
        "banks": [bank.about(None if folder in BUILT_IN else folder) for bank, folder in banks],
        **scored,
        "seconds": seconds,
        "tokens_encoded_now": tokens,
        "files": files,
        "complete": True,
    }


def _about(target: Target) -> TargetAbout:
    source = source_of(target.sae_dir)
    return {
        "name": target.name,
        "model": target.model,
        "model_revision": target.revision,
        "sae": target.sae,
        "sae_model": target.sae_model,
        "llama_scope_gate": target.llama_scope_gate,
        "sae_files": [{"repo": f["repo"], "name": f["name"], "commit": f["commit"]} for f in source.get("files", ())],
        "hook": str(target.hook),
        "neuronpedia": target.neuronpedia,
        "fingerprint": target.fingerprint,
        "notes": list(target.notes),
        "choice": target.choice.to_json(),
    }
