"""The arrays of scores.safetensors, and what makes them believed when they are read again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import check_array
from geofilter.rows.style import STYLE
from geofilter.run.manifest import Manifest

_SCORES: dict[str, tuple[type, tuple[int | None, ...]]] = {
    "file": (np.int32, ()),
    "line": (np.int64, ()),
    "sha256": (np.uint8, (32,)),
    "score": (np.float64, ()),
    "percentile": (np.float64, ()),
    "bank": (np.int32, ()),
    "topic": (np.int32, ()),
    "style": (np.float32, (len(STYLE),)),
    "n_tokens": (np.int32, ()),
    "n_turns": (np.int32, ()),
    "shape": (np.int32, ()),
    "source": (np.int32, ()),
    "learnt": (np.bool_, (None,)),
}
"""the arrays of scores.safetensors: element type, and sizes after the first, which is that of the scored rows"""


def score_kinds(banks: int) -> dict[str, tuple[type, list[int]]]:
    """Element type of each array, and its sizes after the first, of a run that is scored under so many banks."""
    return {
        name: (kind, [banks if size is None else size for size in sizes]) for name, (kind, sizes) in _SCORES.items()
    }


def check_scores(arrays: Mapping[str, npt.NDArray[Any]], manifest: Manifest) -> None:
    """Refuse arrays of scores that nothing may be computed with.

    Raises:
        KeyError, ValueError: one is missing, or which, and what of it.
    """
    n = manifest["counts"]["scored"]
    for name, (kind, sizes) in _SCORES.items():
        check_array(name, arrays[name], kind, (n, *sizes))
    for name, below in (("file", len(manifest["data"])), ("bank", len(manifest["banks"]))):
        if n and not (arrays[name].min() >= 0 and arrays[name].max() < below):
            raise ValueError(f"{name} has a number other than 0 to {below - 1}")
    file, line = arrays["file"], arrays["line"]
    rows = np.array([info["rows"] for info in manifest["data"]], np.int64)
    place = file.astype(np.int64) << 40 | line
    if n and (line.min() < 1 or (line > rows[file]).any() or (np.diff(place) <= 0).any()):
        raise ValueError("lines that do not ascend, or that no input has")
