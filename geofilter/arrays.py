"""The array types that signatures name, and hashes as arrays."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
I64 = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int64]
"""0-based places of rows"""
Digests = npt.NDArray[np.uint8]
"""(n, 32) sha256 of n rows"""


def digests(hashes: Iterable[str]) -> Digests:
    """Hex digests (n) as bytes (n, 32)."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(-1, 32)


class KnownDigests:
    """Digests to search among; 32 bytes of memory each.

    Args:
        digests: (n, 32).
    """

    def __init__(self, digests: Digests) -> None:
        self._sorted = np.sort(_keys(digests))

    def have(self, digests: Digests) -> Bools:
        """Which digests (m,) of (m, 32) are among them."""
        keys = _keys(digests)
        if not len(self._sorted):
            return np.zeros(len(keys), bool)
        at = np.minimum(np.searchsorted(self._sorted, keys), len(self._sorted) - 1)
        same: Bools = self._sorted[at] == keys
        return same


def _keys(digests: Digests) -> npt.NDArray[np.bytes_]:
    # Of strings of one length none is the beginning of another, so that the zeros a digest ends with are no matter.
    return np.ascontiguousarray(digests).view(f"S{digests.shape[1]}").reshape(-1)


def among(digests: Digests, wanted: Digests) -> Bools:
    """Which digests (n,) are among some others."""
    return KnownDigests(wanted).have(digests)


def array_sum(array: npt.NDArray[Any]) -> str:
    """sha256 of an array's type, shape and values, in hex."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    digest.update(np.ascontiguousarray(array).data if array.size else b"")
    return digest.hexdigest()


def check_array(name: str, array: npt.NDArray[Any], kind: type, shape: Sequence[int | None] = (None,)) -> None:
    """Refuse an array of a file that is not what is computed with.

    Args:
        kind: element type.
        shape: sizes; None for one that may be any.

    Raises:
        ValueError: another type or shape, or a number that is not finite; it names the array and the first place.
    """
    check_kind(name, array.dtype, array.shape, kind, shape)
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        place = ", ".join(str(i) for i in np.argwhere(~finite)[0].tolist())
        raise ValueError(f"{name}[{place}] is not finite")


def check_kind(
    name: str, found: np.dtype[Any], size: Sequence[int], kind: type, shape: Sequence[int | None] = (None,)
) -> None:
    """The same of an array's element type and sizes alone, which are all that is known of it.

    Raises:
        ValueError: another type or shape.
    """
    fits = len(shape) == len(size) and all(w in (None, n) for w, n in zip(shape, size, strict=True))
    if found != kind or not fits:
        wanted = ", ".join("n" if w is None else str(w) for w in shape)
        raise ValueError(f"{name} is {found} {tuple(size)}, not {np.dtype(kind).name} ({wanted})")
