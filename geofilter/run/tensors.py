"""safetensors files that carry a hash of each array, so that damage is known, and in which array."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import array_sum
from geofilter.files import from_json, json_text, ordinary

_HELD = "geofilter"
"""the one entry of a file's metadata: of several, the order is another each time they are written"""
_ABOUT = "about"


def packed(arrays: Mapping[str, npt.NDArray[Any]], about: Mapping[str, Any]) -> bytes:
    """A file of arrays, and of what is said about them."""
    from safetensors.numpy import save

    tight = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json_text(about)
    return save(tight, metadata={_HELD: json_text({"about": text, "sums": _sums(text, tight)})})


def unpacked(path: Path, names: Iterable[str] | None = None) -> tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]:
    """What is said about the arrays of a file, and the arrays, each held against its hash.

    Args:
        names: of those that are read; all if None.

    Raises:
        OSError, SafetensorError: the file cannot be read.
        KeyError: an array is missing.
        ValueError: an array is not what was written.
    """
    from safetensors import safe_open

    with safe_open(ordinary(path), framework="numpy") as handle:
        held = from_json((handle.metadata() or {}).get(_HELD, "{}"))
        wanted = list(handle.keys()) if names is None else list(names)
        arrays = {name: handle.get_tensor(name) for name in wanted}
    try:
        text, known = str(held["about"]), dict(held["sums"])
    except (KeyError, TypeError):
        raise ValueError("it does not say what was written") from None
    sums = _sums(text, arrays)
    for name in {**sums, **(known if names is None else {})}:
        if sums.get(name) != known.get(name):
            raise ValueError(f"{name} is not what was written")
    return from_json(text), arrays


def _sums(text: str, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, str]:
    about = hashlib.sha256(text.encode()).hexdigest()
    return {_ABOUT: about, **{name: array_sum(array) for name, array in arrays.items()}}
