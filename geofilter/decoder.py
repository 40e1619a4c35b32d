"""The decoder of an SAE folder: its feature directions, read without torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from geofilter.errors import TargetError


def decoder_shape(path: Path) -> tuple[int, int]:
    """(d_in, d_sae) of an SAE folder, read without its weights.

    Raises:
        TargetError: no weights there that can be read.
    """
    with _rows(path) as decoder:
        d_sae, d_in = decoder.get_shape()
    return int(d_in), int(d_sae)


def unit_decoder(path: Path) -> npt.NDArray[np.float32]:
    """Unit-normalised decoder directions (d_sae, d_in) of an SAE folder; zero rows stay zero.

    Raises:
        TargetError: no weights there that can be read.
    """
    with _rows(path) as decoder:
        w: npt.NDArray[np.float32] = decoder[:].astype(np.float32, copy=False)
    norm = np.linalg.norm(w, axis=1, keepdims=True)
    np.divide(w, norm, out=w, where=norm > 0)  # in place: 27B's 131k directions are 2.4 GB
    return w


@contextmanager
def _rows(path: Path) -> Iterator[Any]:
    """W_dec in the file, unread."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path / "sae_weights.safetensors", framework="numpy") as file:
            yield file.get_slice("W_dec")
    except (SafetensorError, OSError) as error:
        raise TargetError(f"{path}: SAE weights cannot be used ({error}); get the folder again") from None
