"""Where things lie: the cache folder and the files that ship in the package."""

from __future__ import annotations

import hashlib
import importlib.resources
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from geofilter.errors import TargetError

Notify = Callable[[str], None]
"""told one line at a time what takes long or should be known"""


def cache_dir() -> Path:
    """`GEOFILTER_CACHE`, else the platform's cache folder."""
    return Path(os.environ.get("GEOFILTER_CACHE") or platformdirs.user_cache_path("geofilter"))


def package_data(*parts: str) -> Path:
    """A file or folder that ships in the package."""
    return Path(str(importlib.resources.files("geofilter"))).joinpath("data", *parts)


def example_file() -> Path:
    """The demo's data: in the installed package, or in examples/ of a source checkout."""
    packaged = package_data("mixed_advice.jsonl")
    return packaged if packaged.is_file() else Path(__file__).parent.parent / "examples" / packaged.name


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def making(path: Path) -> Iterator[None]:
    """Hold the lock under which `path` in the cache is made: of two processes one makes it, the other finds it.

    Raises:
        TargetError: the cache cannot be written.
    """
    from filelock import FileLock

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{path}.lock")
        lock.acquire()
    except OSError as error:
        raise TargetError(
            f"{path.parent}: cannot be written ({error.strerror or error}); set GEOFILTER_CACHE to a folder that can"
        ) from None
    try:
        yield
    finally:
        lock.release()


def slug(text: str) -> str:
    """A hub id or SAE id as one folder name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text).strip(".")
