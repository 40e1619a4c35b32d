"""Where the built-in banks of a target are: in the package, or in the cache."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from geofilter.bank.about import Source
from geofilter.files import cache_dir, file_sha256, package_data, slug


def built_in_sources(name: str) -> dict[str, Source]:
    """Say where the rows of a built-in bank come from."""
    files = {"contrast": f"{name}.jsonl", "topics": "topics.toml", "background": "background.jsonl"}
    return {k: {"file": v, "sha256": file_sha256(package_data("contrast", v))} for k, v in files.items()}


def built_in_folder(name: str, target: str, fingerprint: str, precision: str, sources: Mapping[str, Source]) -> Path:
    """Folder of a built-in bank for a target: in the package when it ships there for this target and precision, else
    in the cache, whether it has been built or not.

    Args:
        precision: see `config.precision`.
        sources: of its texts, each with `sha256`; part of the cache folder's name, so that new texts mean a new bank.
    """
    shipped = package_data("banks", target, name)
    if (shipped / "bank.json").is_file():
        text = json.loads((shipped / "bank.json").read_text("utf-8"))
        if (text["target"]["fingerprint"], text["dtype"]) == (fingerprint, precision):
            return shipped
    texts = hashlib.sha256("".join(s["sha256"] for s in sources.values()).encode()).hexdigest()
    return cache_dir() / "banks" / f"{slug(target)}-{fingerprint[:12]}-{precision}" / f"{name}-{texts[:12]}"
