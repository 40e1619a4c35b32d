"""Options of a scan, the fingerprint they give a run, and the settings file."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geofilter.errors import InputError


@dataclass(frozen=True, slots=True)
class ScanConfig:
    """What a scan computes. Everything here but `banks` and `scorer` decides the stored features."""

    data: tuple[str, ...]
    model: str
    sae: str | None = None
    banks: tuple[str, ...] = ()
    """bank names or folders; empty means the built-in ones"""
    scorer: str = "contrast"
    device: str = "auto"
    dtype: str = "auto"
    max_tokens: int = 1024
    """tokens of one row, prompt included; a longer row is cut, its response kept"""
    limit: int | None = None
    """rows read from each file"""
    shard_rows: int = 1000
    """rows in a shard, the unit of resume"""
    on_error: str = "quarantine"

    def __post_init__(self) -> None:
        """Check ranges.

        Raises:
            InputError: an option outside its range.
        """
        if self.max_tokens < 8:
            raise InputError(f"--max-tokens {self.max_tokens}: too small; use at least 8")
        if self.limit is not None and self.limit < 1:
            raise InputError(f"--limit {self.limit}: must be at least 1")
        if self.shard_rows < 1:
            raise InputError(f"--shard-rows {self.shard_rows}: must be at least 1")
        if self.on_error not in ("quarantine", "fail"):
            raise InputError(f"--on-error {self.on_error}: use quarantine or fail")


def fingerprint(encoding: dict[str, Any]) -> str:
    """sha256 of a JSON-able description of everything the stored features depend on."""
    return hashlib.sha256(json.dumps(encoding, sort_keys=True).encode()).hexdigest()


def settings(folder: Path) -> dict[str, Any]:
    """Defaults for the command line: `geofilter.toml`, else `[tool.geofilter]` of pyproject.toml, else nothing.

    Keys are the long option names of `scan`, with - or _.

    Raises:
        InputError: the file is not valid TOML.
    """
    for name in ("geofilter.toml", "pyproject.toml"):
        path = folder / name
        if not path.is_file():
            continue
        try:
            table = tomllib.loads(path.read_text("utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: not valid TOML ({error}); mend it") from None
        found = table if name == "geofilter.toml" else table.get("tool", {}).get("geofilter")
        if found is not None:
            return {key.replace("-", "_"): value for key, value in found.items()}
    return {}
