"""The arrays of scores.safetensors, and what makes them believed when they are read again."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import I32, Positions, check_array
from geofilter.rows.style import STYLE
from geofilter.run.manifest import Manifest
from geofilter.run.tensors import unpacked

SCORE_ARRAYS: dict[str, tuple[type, tuple[int | None, ...]]] = {
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


LOSS_ARRAY: dict[str, tuple[type, tuple[int | None, ...]]] = {"loss": (np.float32, (2,))}
"""one more, of a run with --with-loss, see `Shard.loss`"""


def arrays_of(manifest: Manifest) -> dict[str, tuple[type, tuple[int | None, ...]]]:
    """The arrays that a run has."""
    return SCORE_ARRAYS | (LOSS_ARRAY if manifest["encoding"].get("with_loss") else {})


def score_kinds(banks: int, manifest: Manifest) -> dict[str, tuple[type, list[int]]]:
    """Element type of each array, and its sizes after the first, of a run that is scored under so many banks."""
    return {name: (kind, [size or banks for size in sizes]) for name, (kind, sizes) in arrays_of(manifest).items()}


def read_scores(
    path: Path, manifest: Manifest, names: Collection[str] | None, known: Mapping[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    """The arrays of a run's scores.safetensors, checked to be such that something may be computed with them.

    Args:
        names: of those that are read; all if None.
        known: others, which have been read before.

    Raises:
        OSError, SafetensorError: the file cannot be read.
        KeyError, ValueError: one is missing, or which, and what of it.
    """
    arrays = unpacked(path, names)[1]
    n, kinds = manifest["counts"]["scored"], arrays_of(manifest)
    for name in kinds if names is None else names:
        kind, sizes = kinds[name]
        check_array(name, arrays[name], kind, (n, *sizes))
    for name, below in (("file", len(manifest["data"])), ("bank", len(manifest["banks"]))):
        if n and name in arrays and not (arrays[name].min() >= 0 and arrays[name].max() < below):
            raise ValueError(f"{name} has a number other than 0 to {below - 1}")
    both = {**known, **arrays}
    if n and "file" in both and "line" in both:
        _check_places(both["file"], both["line"], manifest)
    for array in arrays.values():
        array.setflags(write=False)  # they are given out again
    return arrays


def _check_places(file: I32, line: Positions, manifest: Manifest) -> None:
    rows = np.array([info["rows"] for info in manifest["data"]], np.int64)
    place = file.astype(np.int64) << 40 | line
    if line.min() < 1 or (line > rows[file]).any() or (np.diff(place) <= 0).any():
        raise ValueError("lines that do not ascend, or that no input has")
