"""safetensors files that carry a hash of each array, so that damage is known, and in which array."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import array_sum
from geofilter.files import json_text, ordinary

_ABOUT = "about"
_SUM = "sha256 "


def packed(arrays: Mapping[str, npt.NDArray[Any]], about: Mapping[str, Any]) -> bytes:
    """A file of arrays, and of what is said about them."""
    from safetensors.numpy import save

    tight = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json_text(about)
    return save(tight, metadata={_ABOUT: text, **_sums(text, tight)})


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
        meta: dict[str, str] = handle.metadata() or {}
        wanted = list(handle.keys()) if names is None else list(names)
        arrays = {name: handle.get_tensor(name) for name in wanted}
    text = meta.pop(_ABOUT, "")
    sums = _sums(text, arrays)
    for name in {**sums, **(meta if names is None else {})}:
        if sums.get(name) != meta.get(name):
            raise ValueError(f"{name.removeprefix(_SUM)} is not what was written")
    return json.loads(text), arrays


def _sums(text: str, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, str]:
    about = hashlib.sha256(text.encode()).hexdigest()
    return {f"{_SUM}{_ABOUT}": about, **{f"{_SUM}{name}": array_sum(array) for name, array in arrays.items()}}
