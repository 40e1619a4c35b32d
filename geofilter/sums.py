"""Hashes by which files of our own are believed: of each field of a JSON object, and of a file as a whole."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from geofilter.files import file_sha256

SEAL = "seal"
"""the field of a sealed object that holds the hashes of its other fields"""


class FileSum(TypedDict):
    """A file as it was written."""

    sha256: str
    bytes: int


def sealed(value: Mapping[str, Any]) -> dict[str, Any]:
    """An object with the hashes of its fields, so that what was changed later is known."""
    fields = {name: of for name, of in value.items() if name != SEAL}
    return {**fields, SEAL: {name: _sum(of) for name, of in fields.items()}}


def broken(value: Mapping[str, Any]) -> str | None:
    """The first field of a sealed object that is not as it was sealed; None where all are."""
    seal = value.get(SEAL)
    if not isinstance(seal, dict):
        return SEAL
    names = [*seal, *(name for name in value if name not in seal and name != SEAL)]
    return next((name for name in names if name not in value or _sum(value[name]) != seal.get(name)), None)


def _sum(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:32]


def sum_of(path: Path) -> FileSum:
    """Size and hash of a file.

    Raises:
        OSError: it cannot be read; the error names it.
    """
    return {"sha256": file_sha256(path), "bytes": path.stat().st_size}
