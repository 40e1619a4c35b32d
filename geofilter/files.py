"""Files: where things lie, and writing them whole, alone, or not at all."""

from __future__ import annotations

import errno
import hashlib
import importlib.resources
import json
import math
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NoReturn

import platformdirs

from geofilter.errors import InputError, RunError, TargetError
from geofilter.together import NotWrittenError, Together, clear_stale, scratch_in

Notify = Callable[[str], None]
"""told one line at a time what takes long or should be known"""

RUNS = ".geofilter"

MOST_OWN = 1 << 28
"""bytes of a manifest, a bank.json or a report; none that we write has more"""


def silent(*_: object) -> None:
    """Tell nobody: a `Notify`, or a progress, that is not listened to."""


def cache_dir() -> Path:
    """`GEOFILTER_CACHE`, else the platform's cache folder."""
    return Path(os.environ.get("GEOFILTER_CACHE") or platformdirs.user_cache_path("geofilter"))


def package_data(*parts: str) -> Path:
    """A file or folder that ships in the package."""
    return Path(str(importlib.resources.files("geofilter"))).joinpath("data", *parts)


def ordinary(path: Path) -> Path:
    """A path that is read as a whole: a device or a pipe would never end, or never begin.

    Raises:
        OSError: it is no ordinary file, or it is not there.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(errno.EINVAL, "it is no ordinary file", str(path))
    return path


def own_bytes(path: Path) -> bytes:
    """All of a file that we write small: what lies in its place may be of a stranger.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger than any that we write.
    """
    with named(path), ordinary(path).open("rb") as handle:
        found = handle.read(MOST_OWN + 1)
    if len(found) > MOST_OWN:
        raise ValueError(f"larger than {MOST_OWN >> 20} MiB")
    return found


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Have an error of the system say which file it is of: one of reading does not, only one of opening does."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def file_sha256(path: Path) -> str:
    """Hash of a file's bytes.

    Raises:
        OSError: it cannot be read, or is no ordinary file; the error names it.
    """
    with named(path), ordinary(path).open("rb") as handle:
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
            clear_stale(path.parent)
            scratch = scratch_in(path.parent)
            try:
                made = scratch / path.name
                made.mkdir(parents=True)
                make(made)
                shutil.rmtree(path, ignore_errors=True)
                made.rename(path)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    finally:
        lock.release()
    return path


def slug(text: str) -> str:
    """A hub id or SAE id as one folder name."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in text).strip(".")


def json_text(value: Any, indent: int | None = None) -> str:
    """A value as JSON; a number that JSON does not have is never written.

    Raises:
        ValueError: the value holds NaN or an infinity.
    """
    if indent is None:
        return _ENCODER.encode(value)
    return json.dumps(value, ensure_ascii=False, indent=indent, allow_nan=False)


def from_json(text: str | bytes) -> Any:
    """The value that a JSON text is, of a file of our own or of a stranger.

    Raises:
        ValueError: no JSON, a number that JSON does not have, or nested too deeply to be read.
    """
    try:
        if isinstance(text, bytes):
            text = text.decode(json.detect_encoding(text), "surrogatepass")
        return _DECODER.decode(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _finite(text: str) -> float:
    value = float(text)
    return value if -math.inf < value < math.inf else _no_number(text)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


# Made once: rows are read and written by the million.
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False)
_DECODER = json.JSONDecoder(parse_constant=_no_number, parse_float=_finite)


def dumps(value: Any) -> bytes:
    """One JSON line; escaped to ASCII only where a string is half a surrogate pair and cannot be UTF-8.

    Raises:
        ValueError: see `json_text`.
    """
    try:
        return (json_text(value) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(value, allow_nan=False) + "\n").encode()


@contextmanager
def atomic(path: Path, mode: int | None = None) -> Iterator[IO[bytes]]:
    """Open a binary file that appears at `path` complete, or not at all.

    Args:
        mode: its permissions; the system's default if None.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        with Together() as files, files.open(path, mode) as handle:
            yield handle
    except NotWrittenError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); choose another place") from None


def write_text(path: Path, text: str, mode: int | None = None) -> None:
    """Write UTF-8, atomically; a file name in it that holds bytes which are no text is written with escapes."""
    with atomic(path, mode) as handle:
        handle.write(as_bytes(text))


def as_bytes(text: str) -> bytes:
    """UTF-8; a file name that holds bytes which are no text is written with escapes."""
    return text.encode("utf-8", "backslashreplace")


def write_json(path: Path, value: Any, mode: int | None = None) -> None:
    """Write readable JSON, atomically."""
    write_text(path, json_text(value, indent=1) + "\n", mode)


def append(path: Path, text: str) -> None:
    """Add text to a file.

    Raises:
        InputError: it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8", errors="backslashreplace") as handle:
            handle.write(text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from None


def make_folder(path: Path) -> None:
    """Make a folder for results, if it is not there.

    Raises:
        InputError: it cannot be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be made ({error.strerror}); give another folder") from None


@contextmanager
def folders_locked(folders: Iterable[Path], taken: str, wait: float = 60) -> Iterator[None]:
    """Hold folders against other calls of this; nothing is written into them, and the system frees them.

    Args:
        taken: what is said when another process holds one.
        wait: seconds to wait for other processes.

    Raises:
        OSError: a folder is not there, or cannot be opened.
        RunError: another process holds one.
    """
    import fcntl

    until = time.monotonic() + wait
    with ExitStack() as held:
        for folder in sorted({folder.resolve() for folder in folders}):  # in one order, so that none waits for another
            descriptor = os.open(folder, os.O_RDONLY)
            held.callback(os.close, descriptor)
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise RunError(f"{folder}: {taken}") from None
                    time.sleep(0.05)
                except OSError:
                    break  # a file system without locks: what two calls leave is told from a whole set all the same
        yield


@contextmanager
def locked(lock: Path, taken: str, *, wait: float = 0, remedy: str = "") -> Iterator[None]:
    """Hold a lock file against other processes; freed by the system even when the process is killed.

    Args:
        taken: what is said when another process holds it.
        wait: seconds to wait for another process.
        remedy: given for a file in a folder of the user's own. The folder is made if need be, the lock file goes when
            it is freed, and a folder that cannot be written is an error of input, with this remedy.

    Raises:
        RunError: another process holds it, or it cannot be made.
        InputError: it cannot be made, where there is a remedy.
    """
    from filelock import FileLock, Timeout

    held = FileLock(lock, timeout=wait)
    try:
        if remedy:
            lock.parent.mkdir(parents=True, exist_ok=True)
        held.acquire()
    except Timeout:
        raise RunError(taken) from None
    except OSError as error:
        if remedy:
            raise InputError(f"{lock.parent}: cannot be written ({error.strerror}); {remedy}") from None
        raise RunError(f"{lock.parent}: the folder cannot be written ({error.strerror})") from None
    try:
        yield
    finally:
        if remedy:
            with suppress(OSError):
                lock.unlink()
        held.release()
