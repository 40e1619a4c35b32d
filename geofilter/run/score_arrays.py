"""The arrays of scores.safetensors, and what makes them believed when they are read again."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from geofilter.arrays import I32, Positions
from geofilter.rows.style import STYLE
from geofilter.run.column import Column, Source, columns_of
from geofilter.run.manifest import Manifest, Started

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
PAIR_ARRAYS: dict[str, tuple[type, tuple[int | None, ...]]] = {
    "difference": (np.float64, ()),
    "paired": (np.bool_, ()),
}
"""two more, of a run with --pairs difference: chosen less rejected, of a row that is no pair its score; and which rows
are pairs"""


def arrays_of(manifest: Started) -> dict[str, tuple[type, tuple[int | None, ...]]]:
    """The arrays that a run has."""
    with_loss = bool(manifest["encoding"].get("with_loss"))
    return SCORE_ARRAYS | (LOSS_ARRAY if with_loss else {}) | (PAIR_ARRAYS if has_pairs(manifest) else {})


def has_pairs(manifest: Started) -> bool:
    """Whether both answers of preferences were read, see `PAIR_ARRAYS`."""
    return manifest["encoding"].get("pairs") == "difference"


def rank_array(manifest: Started) -> str:
    """The array by which a run ranks its rows, the highest first."""
    return "difference" if has_pairs(manifest) else "score"


def score_kinds(banks: int, manifest: Manifest) -> dict[str, tuple[type, list[int]]]:
    """Element type of each array, and its sizes after the first, of a run that is scored under so many banks."""
    return {name: (kind, [size or banks for size in sizes]) for name, (kind, sizes) in arrays_of(manifest).items()}


class ScoreColumns:
    """The arrays of a run's scores.safetensors, each checked once to be such that something may be computed with it."""

    def __init__(self) -> None:
        self._source: Source | None = None
        self._known: dict[str, Column] = {}

    def of(self, source: Source, manifest: Manifest, names: Collection[str] | None) -> dict[str, Column]:
        """Those of a file.

        Args:
            names: of those that are wanted; all if None.

        Raises:
            RunError: one is missing, or is not what was written.
        """
        from safetensors import SafetensorError

        if self._source is None or (self._source.path, self._source.stat) != (source.path, source.stat):
            self._source, self._known = source, {}
        names = [*arrays_of(manifest)] if names is None else names
        if missing := [name for name in names if name not in self._known]:
            try:
                self._known |= _checked(source, manifest, missing, self._known)
            except (OSError, KeyError, ValueError, SafetensorError) as error:
                raise source.refuse(f"damaged ({error})") from None
        return {name: self._known[name] for name in names}


def _checked(
    source: Source, manifest: Manifest, names: Collection[str], known: Mapping[str, Column]
) -> dict[str, Column]:
    found, sums = columns_of(source, names)
    n, kinds = manifest["counts"]["scored"], arrays_of(manifest)
    for name in names:
        kind, sizes = kinds[name]
        found[name].check(kind, (n, *sizes), sums.get(name))
    for name, below in (("file", len(manifest["data"])), ("bank", len(manifest["banks"]))):
        if name in found and any(rows.min() < 0 or rows.max() >= below for _, rows in found[name].pieces()):
            raise ValueError(f"{name} has a number other than 0 to {below - 1}")
    both = {**known, **found}
    if "file" in both and "line" in both and not {"file", "line"} <= known.keys():
        _check_places(both["file"], both["line"], manifest)
    return found


def _check_places(file: Column, line: Column, manifest: Manifest) -> None:
    rows = np.array([info["rows"] for info in manifest["data"]], np.int64)
    last = -1
    for (_, files), (_, lines) in zip(file.pieces(), line.pieces(), strict=True):
        places = np.concatenate([[last], _place(files, lines)])
        if lines.min() < 1 or (lines > rows[files]).any() or (np.diff(places) <= 0).any():
            raise ValueError("lines that do not ascend, or that no input has")
        last = places[-1]


def _place(file: I32, line: Positions) -> Positions:
    return file.astype(np.int64) << 40 | line


def rows_of_files(file: Column, files: int) -> list[slice]:
    """Where the scored rows of each input stand among all, which are in the order of their inputs.

    Args:
        files: how many inputs there are.
    """
    counts = sum((np.bincount(rows, minlength=files) for _, rows in file.pieces()), np.zeros(files, np.int64))
    ends = np.cumsum(counts).tolist()
    return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]
