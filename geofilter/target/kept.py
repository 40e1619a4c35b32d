"""What geofilter keeps in its cache is what it has put there: checked by its hashes once a day, and by `doctor`.

A stamp beside the caches says when the hashes were last found right, with the files' sizes and times; a file that was
touched since is checked again at once. Where no stamp can be written each start checks.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from geofilter.errors import InputError, TargetError
from geofilter.files import cache_dir, file_sha256, write_json
from geofilter.target.sae_folder import CFG, WEIGHTS, source_of
from geofilter.target.target import Target

HASHES = "sha256.json"
"""in a folder that was made: the hash of each of its files"""
DAY = 24 * 3600
"""seconds after which files are hashed again though nothing seems to have touched them"""


def record(folder: Path) -> None:
    """Write down the hashes of a folder's files."""
    found = {path.name: file_sha256(path) for path in sorted(folder.iterdir()) if path.is_file()}
    (folder / HASHES).write_text(json.dumps(found, indent=1), "utf-8")


def recorded(folder: Path) -> dict[str, str]:
    """The hashes that `record` has written; none where they cannot be read, which is no folder it has made."""
    try:
        found = json.loads((folder / HASHES).read_text("utf-8"))
        return {str(name): str(sha256) for name, sha256 in found.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}


def check(folder: Path, hashes: Mapping[str, str], always: bool = False) -> None:
    """Check files of the cache against their hashes, unless that was done within a day and nothing touched them since.

    Args:
        hashes: by name of the file.
        always: also then.

    Raises:
        TargetError: a file is not what was put there.
    """
    if not hashes:
        return
    place = cache_dir() / "checked" / f"{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]}.json"
    try:
        state = [[name, sha256, *touched(folder / name)] for name, sha256 in sorted(hashes.items())]
        if not always and _is_fresh(place, state):
            return
        wrong = next((name for name, sha256 in hashes.items() if file_sha256(folder / name) != sha256), None)
    except OSError as error:
        raise TargetError(f"{folder}: cannot be read ({error.strerror}); delete it and run the command again") from None
    if wrong is not None:
        with suppress(OSError):
            place.unlink()
        raise TargetError(
            f"{folder / wrong}: is not what geofilter has put there (another sha256); delete {folder} and run the "
            "command again, which makes it anew"
        )
    with suppress(OSError, InputError):  # a cache that is only read
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, {"time": time.time(), "files": state})


def check_sae(sae_dir: Path, always: bool = False) -> None:
    """Check an SAE that is kept in the cache, see `check`; a user's own has no hashes.

    Raises:
        TargetError: a file of it is not what was put there.
    """
    source = source_of(sae_dir)
    hashes = {WEIGHTS: source.get("weights_sha256"), CFG: source.get("cfg_sha256")}
    check(sae_dir, {name: str(sha256) for name, sha256 in hashes.items() if sha256}, always)


def check_target(target: Target) -> None:
    """Check whatever of a target geofilter has made and keeps, also where that was done today.

    Raises:
        TargetError: a file of it is not what was put there.
    """
    check_sae(target.sae_dir, always=True)
    if target.model_dir.parent == cache_dir() / "models":
        check(target.model_dir, recorded(target.model_dir), always=True)


def sha256_of(path: Path) -> str:
    """Hash of a large file of the user's own; it is read again when it was touched, or after a day.

    Raises:
        TargetError: it cannot be read.
    """
    place = cache_dir() / "hashed" / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}.json"
    try:
        state = [[str(path.resolve()), *touched(path)]]
        if _is_fresh(place, state) and (known := _known(place)):
            return known
        found = file_sha256(path)
        if [[str(path.resolve()), *touched(path)]] != state:
            raise TargetError(f"{path}: was changed while it was read; run the command again")
    except OSError as error:
        raise TargetError(f"{path}: cannot be read ({error.strerror}); get the file again") from None
    with suppress(OSError, InputError):  # a cache that is only read
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, {"time": time.time(), "files": state, "sha256": found})
    return found


def _known(place: Path) -> str:
    found = json.loads(place.read_text("utf-8")).get("sha256")
    return found if isinstance(found, str) and re.fullmatch("[0-9a-f]{64}", found) else ""


def touched(path: Path) -> tuple[int, int, int, int]:
    """What changes when a file does: size, times and inode."""
    about = path.stat()
    return about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino


def _is_fresh(place: Path, state: list[list[object]]) -> bool:
    try:
        stamp = json.loads(place.read_text("utf-8"))
        return stamp["files"] == state and 0 <= time.time() - float(stamp["time"]) < DAY
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return False
