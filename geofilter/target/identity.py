"""What a target's fingerprint is made of: hashes of all that changes what is read."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path

from geofilter.errors import TargetError
from geofilter.files import file_sha256, package_data
from geofilter.target import adapters, hub
from geofilter.target.gguf_header import gguf_files
from geofilter.target.hooks import Hook
from geofilter.target.sae_folder import CFG, WEIGHTS, source_of


def folder_hash(folder: Path) -> str:
    """Of a model folder: its weights, configuration and tokenizer.

    Raises:
        TargetError: it holds no weights that are read.
    """
    named = hub.shards_of(folder)
    files = sorted(
        path for path in folder.glob("*.safetensors") if path.name != adapters.ADAPTER_WEIGHTS or path.name in named
    )
    if not files:
        remedy = f"; give the file: --model {shlex.quote(str(found[0]))}" if (found := gguf_files(folder)) else ""
        raise TargetError(f"{folder}: no *.safetensors weights in the model folder{remedy}")
    # The tokenizer, its template and the configuration change what is read as much as the weights do.
    # Which of several files a tensor is read from says the index.
    return "".join(map(file_sha256, files)) + hashes(folder, (hub.INDEX, hub.CONFIG, *hub.TOKENIZER))


def hashes(folder: Path, names: Sequence[str]) -> str:
    """Of those files of a folder that are there."""
    return "".join(file_sha256(folder / name) for name in names if (folder / name).is_file())


def fingerprint(hook: Hook, model_hash: str, sae_dir: Path) -> str:
    """Of a target: see `Target.fingerprint`."""
    # For a kept SAE the hash is known, and checked; nothing but its weights vouches for a user's own.
    weights = source_of(sae_dir).get("weights_sha256") or file_sha256(sae_dir / WEIGHTS)
    shipped = sae_dir.is_relative_to(package_data())
    extra = "" if shipped else file_sha256(sae_dir / CFG)
    return hashlib.sha256(f"{hook} {model_hash}{extra} {weights}".encode()).hexdigest()
