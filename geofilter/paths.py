"""Where things lie: the cache folder and the files that ship in the package."""

from __future__ import annotations

import hashlib
import importlib.resources
import os
import shutil
import tempfile
from collections.abc import Callable
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


def _example(name: str) -> Path:
    """What lies in examples/ of a source checkout and travels in the installed package."""
    packaged = package_data(name)
    return packaged if packaged.exists() else Path(__file__).parent.parent / "examples" / name


def example_file() -> Path:
    """The demo's data."""
    return _example("mixed_advice.jsonl")


def domain_files() -> list[Path]:
    """The paired health, career and legal answers."""
    return sorted(_example("domains").glob("*.jsonl"))


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def made_once(path: Path, complete: Callable[[Path], bool], make: Callable[[Path], object], notify: Notify) -> Path:
    """A folder of the cache, made when it is not complete; a complete one is only read, so its cache may be read-only.

    Of two processes one makes it and the other waits. It appears complete or not at all; what a cleared or cut-off
    cache left of it goes.

    Args:
        complete: says whether the folder holds all of what it should.
        make: writes all of it into the empty folder it is given.

    Raises:
        TargetError: the cache cannot be written.
    """
    if complete(path):
        return path
    from filelock import FileLock, Timeout

    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=1)
        except Timeout:
            notify(f"waiting for another process that makes {path} ...")
            lock.acquire()
    except OSError as error:
        raise TargetError(
            f"{path.parent}: cannot be written ({error.strerror or error}); set GEOFILTER_CACHE to a folder that can"
        ) from None
    try:
        if not complete(path):
            with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
                made = Path(scratch, path.name)
                made.mkdir()
                make(made)
                shutil.rmtree(path, ignore_errors=True)
                made.rename(path)
    finally:
        lock.release()
    return path


def slug(text: str) -> str:
    """A hub id or SAE id as one folder name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text).strip(".")
