"""An SAE's folder: its configuration, where it came from, and its decoder directions, read without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from geofilter.arrays import F32
from geofilter.errors import TargetError
from geofilter.files import cache_dir, from_json

CFG, WEIGHTS, SOURCE = "cfg.json", "sae_weights.safetensors", "source.json"
"""files of an SAE's folder: SAELens' two, and where a kept one came from"""
ARCHITECTURES = ("topk", "jumprelu", "standard")
"""what `sae.FeatureEncoder` computes; sae-lens turns BatchTopK into jumprelu"""
_COMPUTED: dict[str, tuple[Any, ...]] = {
    "architecture": ARCHITECTURES,
    "normalize_activations": ("none", None),
    "reshape_activations": ("none", "hook_z", None),  # flat vectors either way
    "rescale_acts_by_decoder_norm": (False, None),
}
"""values of a configuration that `sae.FeatureEncoder` computes exactly"""


def decoder_shape(path: Path) -> tuple[int, int]:
    """(d_in, d_sae) of an SAE folder, read without its weights.

    Raises:
        TargetError: no weights there that can be read.
    """
    with open_weights(path) as weights:
        shape = weights.get_slice("W_dec").get_shape()
    if len(shape) != 2:
        raise TargetError(f"{path / WEIGHTS}: W_dec has the shape {tuple(shape)}, no matrix; get the folder again")
    d_sae, d_in = shape
    return int(d_in), int(d_sae)


def unit_decoder(path: Path) -> F32:
    """Unit-normalised decoder directions (d_sae, d_in) of an SAE folder; zero rows stay zero.

    Raises:
        TargetError: no weights there that can be read, or a direction that is not finite.
    """
    with open_weights(path) as weights:
        stored = weights.get_slice("W_dec").get_dtype()
        if stored not in ("F64", "F32", "F16", "BF16"):
            raise TargetError(
                f"{path / WEIGHTS}: W_dec is stored as {stored}; store it as float32, float16 or bfloat16"
            )
        w: F32 = (
            _widened(path / WEIGHTS, "W_dec")
            if stored == "BF16"
            else weights.get_tensor("W_dec").astype(np.float32, copy=False)
        )
    norm = np.linalg.norm(w, axis=1, keepdims=True)
    if not np.isfinite(norm).all():
        raise TargetError(f"{path / WEIGHTS}: W_dec is not finite throughout; get the folder again")
    np.divide(w, norm, out=w, where=norm > 0)  # in place: 27B's 131k directions are 2.4 GB
    return w


def _widened(path: Path, name: str) -> F32:
    """A bfloat16 tensor as float32, of which it is the upper half of the bits; numpy has no such type."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        about = json.loads(file.read(length))[name]
    start = 8 + length + int(about["data_offsets"][0])
    wide = np.memmap(path, "<u2", "r", start, tuple(about["shape"])).astype(np.uint32)
    wide <<= 16
    return wide.view(np.float32)


@contextmanager
def open_weights(path: Path, framework: str = "numpy") -> Iterator[Any]:
    """Open the weights of an SAE folder, as safetensors does: nothing is read before it is asked for.

    Args:
        framework: numpy, or pt for torch.

    Raises:
        TargetError: they cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path / WEIGHTS, framework=framework) as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise TargetError(f"{path}: SAE weights cannot be used ({error}); get the folder again") from None


def read_computed(sae_dir: Path) -> dict[str, Any]:
    """Read the configuration of a folder whose SAE `sae.FeatureEncoder` computes exactly.

    Raises:
        TargetError: unreadable, or one that needs a step which is not implemented.
    """
    cfg = checked(read_json(sae_dir / CFG), sae_dir / CFG)
    for key, allowed in _COMPUTED.items():
        if cfg.get(key) not in allowed:
            names = ", ".join(str(a).lower() for a in allowed if a is not None)
            raise TargetError(f"{sae_dir / CFG}: {key} = {cfg.get(key)!r} is not supported; it must be {names}")
    return cfg


def read_json(path: Path, remedy: str = "get the file again") -> dict[str, Any]:
    """A JSON object of an SAE's or an adapter's folder.

    Args:
        remedy: what to do about one that cannot be read.

    Raises:
        TargetError: unreadable, or something else than an object.
    """
    try:
        found = from_json(path.read_text("utf-8"))
    except OSError as error:
        raise TargetError(f"{path}: cannot be read ({error.strerror}); {remedy}") from None
    except ValueError as error:
        raise TargetError(f"{path}: cannot be read ({error}); {remedy}") from None
    if not isinstance(found, dict):
        raise TargetError(f"{path}: holds no JSON object; {remedy}")
    return found


def read_cfg(sae_dir: Path) -> dict[str, Any]:
    """cfg.json of a SAELens folder, with its hook.

    Raises:
        TargetError: unreadable, without the hook the SAE was trained on, or an odd value, see `checked`.
    """
    return checked(read_json(sae_dir / CFG), sae_dir / CFG)


def checked(cfg: dict[str, Any], where: object) -> dict[str, Any]:
    """A configuration as SAELens has it, with every number and word in it that is read looked at.

    Args:
        where: it was read, for the message.

    Raises:
        TargetError: a value is not there or of another kind, or k is more than the SAE's features.
    """
    value_of(cfg, "d_in", where)
    value_of(cfg, "apply_b_dec_to_input", where, bool, False)
    metadata = value_of(cfg, "metadata", where, dict, {})
    if not value_of(metadata, "hook_name", where, str, ""):
        raise TargetError(f"{where}: names no metadata.hook_name; add the hook the SAE was trained on")
    value_of(metadata, "model_name", where, str, "")
    value_of(metadata, "model_from_pretrained_kwargs", where, dict, {})
    features = value_of(cfg, "d_sae", where, int, 0)
    if cfg.get("architecture") == "topk":
        k = value_of(cfg, "k", where)
        if features:
            refuse_more_than_all(k, features, where)
    return cfg


_KINDS = {int: "a whole number above 0", str: "a word in quotes", bool: "true or false", dict: "an object"}


def value_of(cfg: dict[str, Any], key: str, where: object, kind: type = int, absent: Any = None) -> Any:
    """A value of an SAE's configuration, of the kind that it must be.

    Args:
        where: it was read, for the message.
        kind: int, which must be above 0, str, bool or dict.
        absent: what a value that is not there or null stands for; without it there must be one.

    Raises:
        TargetError: it is not there, or of another kind.
    """
    found = cfg.get(key)
    if found is None:
        if absent is None:
            raise TargetError(f"{where}: names no {key}; add it, or get the file again")
        return absent
    if type(found) is not kind or (kind is int and cfg[key] < 1):
        shown = json.dumps(found)
        raise TargetError(
            f"{where}: {key} is {shown if len(shown) <= 40 else shown[:40] + '...'}; it must be {_KINDS[kind]}"
        )
    return found


def refuse_more_than_all(k: int, features: int, where: object) -> None:
    """TopK cannot take more features than there are.

    Raises:
        TargetError: k is more.
    """
    if k > features:
        raise TargetError(f"{where}: k is {k}, more than the SAE's {features} features; get the folder again")


def kept_saes() -> Path:
    """Folder of the cache with the SAEs that were read once and kept in SAELens' layout."""
    return cache_dir() / "saes"


def source_of(sae_dir: Path) -> dict[str, Any]:
    """Where a kept SAE came from; empty for a user's own folder, whatever a file of that name there says.

    Raises:
        TargetError: it cannot be read.
    """
    path = sae_dir / SOURCE
    ours = sae_dir.resolve().parent == kept_saes().resolve()
    return read_json(path, f"delete {sae_dir} and run the command again") if ours and path.is_file() else {}
