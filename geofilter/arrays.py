"""The array types that signatures name, and hashes as arrays."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I32 = npt.NDArray[np.int32]
Bools = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int64]
"""0-based places of rows"""
Digests = npt.NDArray[np.uint8]
"""(n, 32) sha256 of n rows"""


def digests(hashes: Iterable[str]) -> Digests:
    """Hex digests (n) as bytes (n, 32)."""
    return np.frombuffer(bytes.fromhex("".join(hashes)), np.uint8).reshape(-1, 32)


def among(digests: Digests, wanted: Digests) -> Bools:
    """Which digests (n,) are among some others."""
    known = {row.tobytes() for row in wanted}
    return np.array([row.tobytes() in known for row in digests], bool)
