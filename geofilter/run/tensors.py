"""safetensors files that carry a hash of each array, so that damage is known, and in which array."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from geofilter.arrays import array_sum
from geofilter.files import from_json, json_text, ordinary

_HELD = "geofilter"
"""the one entry of a file's metadata: of several, the order is another each time they are written"""
_ABOUT = "about"
_KINDS = {
    "bool": "BOOL", "uint8": "U8", "float16": "F16", "int32": "I32", "float32": "F32", "float64": "F64", "int64": "I64"
}  # fmt: skip
"""element types as safetensors files name them, in the order in which their arrays lie there from the last one on"""


def packed(arrays: Mapping[str, npt.NDArray[Any]], about: Mapping[str, Any]) -> bytes:
    """A file of arrays, and of what is said about them."""
    from safetensors.numpy import save

    tight = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    text = json_text(about)
    return save(tight, metadata={_HELD: json_text({"about": text, "sums": _sums(text, tight)})})


class GrowingTensors:
    """A file of arrays that is written rows by rows, byte for byte what `packed` makes of the whole arrays.

    Args:
        handle: where to; an empty file.
        kinds: element type of each array, and its sizes after the first.
        n: size of the first dimension of all of them.
        whole: other arrays, which are at hand.
    """

    def __init__(
        self,
        handle: IO[bytes],
        kinds: Mapping[str, tuple[Any, Sequence[int]]],
        n: int,
        whole: Mapping[str, npt.NDArray[Any]],
    ) -> None:
        self._handle, self._about = handle, json_text({})
        shapes = {name: (np.dtype(kind), (n, *sizes)) for name, (kind, sizes) in kinds.items()}
        shapes |= {name: (array.dtype, array.shape) for name, array in whole.items()}
        order, self._at, self._header = [*_KINDS], {}, {}
        end = 0
        for name in sorted(shapes, key=lambda name: (-order.index(shapes[name][0].name), name)):
            kind, shape = shapes[name]
            start, end = end, end + kind.itemsize * int(np.prod(shape))
            self._at[name] = start
            self._header[name] = {"dtype": _KINDS[kind.name], "shape": [*shape], "data_offsets": [start, end]}
        self._names = list(shapes)
        self._sums = {name: hashlib.sha256(f"{kind.str} {shape} ".encode()) for name, (kind, shape) in shapes.items()}
        self._begin = len(self._head())
        self.add(whole)

    def add(self, arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Write the next rows of each array."""
        for name, array in arrays.items():
            if array.size:
                data = np.ascontiguousarray(array).data.cast("B")
                self._sums[name].update(data)
                self._handle.seek(self._begin + self._at[name])
                self._handle.write(data)
                self._at[name] += len(data)

    def finish(self) -> None:
        """Write what the file begins with, once all rows are there."""
        self._handle.seek(0)
        self._handle.write(self._head())

    def _head(self) -> bytes:
        sums = {_ABOUT: hashlib.sha256(self._about.encode()).hexdigest()}
        sums |= {name: self._sums[name].hexdigest() for name in self._names}
        held = json_text({"about": self._about, "sums": sums})
        text = json.dumps({"__metadata__": {_HELD: held}, **self._header}, separators=(",", ":"), ensure_ascii=False)
        data = text.encode()
        data += b" " * (-len(data) % 8)
        return len(data).to_bytes(8, "little") + data


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


def said_of(path: Path) -> dict[str, str]:
    """The hashes that the arrays of a file are to have, see `arrays.array_sum`.

    Raises:
        OSError, SafetensorError: the file cannot be read.
        ValueError: what is said of the arrays is not what was written.
    """
    from safetensors import safe_open

    unpacked(path, [])
    with safe_open(ordinary(path), framework="numpy") as handle:
        held = from_json((handle.metadata() or {})[_HELD])
    return {name: of for name, of in held["sums"].items() if name != _ABOUT}


def outlined(path: Path) -> tuple[dict[str, Any], dict[str, tuple[int, ...]], str]:
    """What is said about the arrays of a file and their shapes, without reading them, and a hash of what all of them
    are to be.

    Raises:
        OSError, SafetensorError: the file cannot be read.
        ValueError: what is said is not what was written.
    """
    from safetensors import safe_open

    with safe_open(ordinary(path), framework="numpy") as handle:
        text = (handle.metadata() or {}).get(_HELD, "{}")
        shapes = {name: tuple(handle.get_slice(name).get_shape()) for name in handle.keys()}  # noqa: SIM118
    return unpacked(path, [])[0], shapes, hashlib.sha256(text.encode()).hexdigest()


def _sums(text: str, arrays: Mapping[str, npt.NDArray[Any]]) -> dict[str, str]:
    about = hashlib.sha256(text.encode()).hexdigest()
    return {_ABOUT: about, **{name: array_sum(array) for name, array in arrays.items()}}
