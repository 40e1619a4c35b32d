"""Files that appear together, complete or not at all, under whatever happens meanwhile."""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import shutil
import signal
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Self

NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
"""not on every system"""

BUFFER = 1 << 20
"""bytes that are written, or read, at once where there are many"""


class NotWrittenError(OSError):
    """A file that is being written could not be; what is read meanwhile fails with an OSError of its own."""

    def __init__(self, error: OSError, path: Path) -> None:
        super().__init__(error.errno, error.strerror or str(error), str(path))


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except NotWrittenError:
        raise
    except OSError as error:
        raise NotWrittenError(error, path) from None


class _Scratch(io.FileIO):
    """A temporary file whose failures say which file was meant."""

    def __init__(self, descriptor: int, meant: Path) -> None:
        super().__init__(descriptor, "wb")
        self._meant = meant

    def write(self, data: Any, /) -> int:
        """As `io.FileIO.write`.

        Raises:
            NotWrittenError: the bytes could not be written.
        """
        with _writing(self._meant):
            return super().write(data)


def _here() -> str:
    """Eight digits that tell processes of other machines and containers, whose ids mean nothing here, apart."""
    try:
        space = str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        space = ""
    return hashlib.sha256(f"{socket.gethostname()} {space}".encode()).hexdigest()[:8]


_SCRATCH = re.compile(r"\.geofilter-([0-9a-f]{8})-(\d+)-[0-9a-f]{8}\.tmp")
_LONG_AGO = 86400
"""seconds after which a temporary file of another machine is nobody's"""


def scratch_in(folder: Path) -> Path:
    """A new name in a folder for a temporary file or folder, by which `clear_stale` knows it."""
    return folder / f".geofilter-{_here()}-{os.getpid()}-{secrets.token_hex(4)}.tmp"


def clear_stale(folder: Path) -> None:
    """Remove temporary files and folders that killed processes have left in a folder."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            found = _SCRATCH.fullmatch(entry.name)
            if found and _is_stale(entry, found[1], int(found[2])):
                with suppress(OSError):
                    if entry.is_dir(follow_symlinks=False):
                        shutil.rmtree(entry.path)
                    else:
                        Path(entry.path).unlink()


def _is_stale(entry: os.DirEntry[str], where: str, process: int) -> bool:
    if time.time() - entry.stat(follow_symlinks=False).st_mtime > _LONG_AGO:
        return True
    if where != _here() or process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def mode_of(paths: Iterable[Path]) -> int | None:
    """Permissions for a file made of others: what all of them allow, and the owner to read and write.

    None where none of them is there: the system's default.
    """
    mode = None
    for path in paths:
        with suppress(OSError):
            mode = (0o666 if mode is None else mode) & path.stat().st_mode
    return None if mode is None else mode | 0o600


class Together:
    """Files that appear together: each is complete under a temporary name first, and none is left when writing fails.

    with Together() as files:
        with files.open(path) as handle:
            ...
    # all of them are in place here

    They appear in the order in which they were opened; an interrupt waits until all are there. A process that is
    killed meanwhile leaves some old and some new: what must not pass for whole has a `last` file that says so.

    Args:
        outdated: files that go before the first one appears, such as the description of what was there.
    """

    def __init__(self, outdated: Iterable[Path] = ()) -> None:
        self._outdated = list(outdated)
        self._scratch: dict[Path, Path] = {}
        self._last: set[Path] = set()
        self._cleared: set[Path] = set()

    @contextmanager
    def open(self, path: Path, mode: int | None = None, *, last: bool = False) -> Iterator[IO[bytes]]:
        """Open a binary file that will be `path`; its bytes are on the disk when it is closed.

        Args:
            mode: its permissions; the system's default if None.
            last: it appears after all that are not.

        Raises:
            NotWrittenError: it cannot be written.
        """
        folder = path.parent
        if folder not in self._cleared:
            self._cleared.add(folder)
            clear_stale(folder)
        scratch = scratch_in(folder)
        with _writing(path):
            # Never through a link, never into a file that is there.
            descriptor = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | NO_FOLLOW, 0o666)
        self._scratch[path] = scratch
        if last:
            self._last.add(path)
        with io.BufferedWriter(_Scratch(descriptor, path), BUFFER) as handle:
            if mode is not None:
                with _writing(path):
                    os.fchmod(descriptor, mode)
            yield handle
            handle.flush()
            with _writing(path):
                os.fsync(handle.fileno())

    def written(self, path: Path) -> Path:
        """Where a file that was opened and closed lies until it appears."""
        return self._scratch[path]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                with undisturbed():
                    self._appear()
        finally:
            for scratch in self._scratch.values():
                with suppress(OSError):  # gone already when all went well
                    scratch.unlink()

    def _appear(self) -> None:
        for path in self._outdated:
            with _writing(path), suppress(FileNotFoundError):
                path.unlink()
        _to_disk(self._outdated)
        for chosen in (self._scratch.keys() - self._last, self._last):
            these = [path for path in self._scratch if path in chosen]
            for path in these:
                with _writing(path):
                    self._scratch[path].replace(path)
            _to_disk(these)


def _to_disk(paths: Iterable[Path]) -> None:
    """Have the names of files survive a power cut, where the file system can do that."""
    for folder in {path.parent for path in paths}:
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Hold back SIGINT and SIGTERM until the end of a few quick steps that belong together."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    held = [number for number, handler in before.items() if handler not in (None, signal.SIG_IGN)]
    for number in held:
        signal.signal(number, lambda number, _: came.append(number))
    try:
        yield
    finally:
        for number in held:
            signal.signal(number, before[number])
        for arrived in came:
            signal.raise_signal(arrived)
