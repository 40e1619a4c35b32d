"""The rows that change sides with their group, as a cut's record has them."""

from __future__ import annotations

import base64
import binascii
import zlib

import numpy as np

from geofilter.arrays import Positions

MOST_BYTES = 256 << 20
"""of rows when they are unpacked, four each"""


def packed(rows: Positions) -> str:
    """Rows (0-based, ascending) as text."""
    gaps = np.diff(rows, prepend=0).astype("<u4")
    return base64.b64encode(zlib.compress(gaps.tobytes(), 9)).decode("ascii")


def unpacked(text: str) -> Positions:
    """Inverse of `packed`.

    Raises:
        ValueError: no such text.
    """
    try:
        unpacker = zlib.decompressobj()
        found = unpacker.decompress(base64.b64decode(text, validate=True), MOST_BYTES)
        if unpacker.unconsumed_tail or not unpacker.eof or len(found) % 4:
            raise ValueError("too long, or cut off")
    except (binascii.Error, zlib.error, ValueError) as error:
        raise ValueError(f"rows that changed sides cannot be read ({error})") from None
    gaps = np.frombuffer(found, "<u4").astype(np.int64)
    if (gaps[1:] == 0).any():
        raise ValueError("rows that changed sides do not ascend")
    rows: Positions = np.cumsum(gaps)
    return rows
