"""The edge of the command line: every end of a command as an exit code, and every failure as one line on stderr."""

from __future__ import annotations

import errno
import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, TracebackType

from geofilter.errors import INTERRUPTED, UNEXPECTED, GeofilterError, InputError, ReaderGone, first_line, interrupted
from geofilter.text import inert, one_line, unheard

TRACEBACK = "GEOFILTER_TRACEBACK"
"""environment variable: set, an error that is not foreseen shows its traceback"""

_WRITING = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EPIPE, errno.EEXIST, errno.ENOTEMPTY}
"""errors that only writing has"""
_WRITERS = {"mkdir", "makedirs", "rename", "replace", "unlink", "rmdir", "touch", "write_text", "write_bytes", "move",
            "symlink_to", "hardlink_to", "rmtree", "copyfile", "atomic", "append"}  # fmt: skip
"""functions of the standard library, and our own, that write"""
_READERS = {"read_text", "read_bytes", "iterdir", "scandir", "stat", "is_file", "is_dir", "exists", "resolve"}
_REMEDIES = {
    errno.ENOSPC: "free some space, or give another place",
    errno.EDQUOT: "free some space, or give another place",
    errno.EROFS: "give another place",
    errno.EACCES: "give another place, or change its permissions",
    errno.EPERM: "give another place, or change its permissions",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "its links go round in a circle: give the file itself",
    errno.EMFILE: "let more files be open: ulimit -n",
    errno.ENFILE: "let more files be open",
}


class Carried(Exception):
    """Carries, as its cause, an exception that Typer or Rich would end the process for, with 1 or silently."""


@contextmanager
def carried() -> Iterator[None]:
    """Let no failure end the process but at the edge: with 1, which Typer takes, a gate would seem not to be passed."""
    try:
        yield
    except (OSError, EOFError, KeyboardInterrupt) as error:
        raise Carried from error
    except Exception as error:
        # Typer's own: it prints them, with what was typed in them, which may be a file's name.
        if isinstance(said := getattr(error, "message", None), str) and hasattr(error, "format_message"):
            error.message = unheard(inert(said, keep="\n"))  # type: ignore[attr-defined]
        raise


def guarded(command: Callable[[], object]) -> int:
    """Call a command and return its exit code; what fails is one line on stderr."""
    try:
        try:
            # File names may hold bytes that are not text; JSON reads the escapes as what they stand for.
            if isinstance(sys.stdout, io.TextIOWrapper):
                sys.stdout.reconfigure(errors="backslashreplace")
            command()
        finally:
            # Now, not when the interpreter ends: only here can it be told that it failed.
            if sys.stdout is not None:
                sys.stdout.flush()
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Carried as error:
        return _failed(error.__cause__ or error)
    except BaseException as error:
        return _failed(error)
    return 0


def _failed(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt) or (not isinstance(error, GeofilterError) and interrupted(error)):
        _say("interrupted")
        return INTERRUPTED
    if isinstance(error, ReaderGone):
        return error.exit_code
    if isinstance(error, OSError) or _of_a_path(error):
        error = InputError(told(error))
    if isinstance(error, GeofilterError):
        _say(f"error: {error}")
        return error.exit_code
    if os.environ.get(TRACEBACK):
        import traceback

        traceback.print_exception(error)
        _say("error: not foreseen; report it with this traceback")
        return UNEXPECTED
    if isinstance(error, MemoryError):
        _say(f"error: the memory of this machine ran out; nothing unfinished is kept; {TRACEBACK}=1 shows where")
        return UNEXPECTED
    what = f"{type(error).__name__}: {first_line(error)}" if str(error).strip() else type(error).__name__
    _say(f"error: not foreseen: {what}; report it with what {TRACEBACK}=1 shows")
    return UNEXPECTED


def _say(text: str) -> None:
    # Paths and data can hold what a terminal or a CI job acts on.
    print(f"geofilter: {unheard(inert(text))}", file=sys.stderr)  # noqa: T201


def _of_a_path(error: BaseException) -> bool:
    """Whether an error that is no OSError is of a path all the same: Python has other kinds for some that are none."""
    text = str(error)
    if isinstance(error, UnicodeEncodeError):
        return error.reason == "surrogates not allowed"
    if isinstance(error, ValueError):
        return text.startswith("embedded null")
    return isinstance(error, RuntimeError) and (text.startswith("Symlink loop") or "home directory" in text)


def told(error: BaseException) -> str:
    """What cannot be read or written, why, and what helps, on one line."""
    if isinstance(error, UnicodeEncodeError):
        return f"{ascii(error.object)[1:-1]}: a name of bytes that are no text cannot stand here; rename it"
    if not isinstance(error, OSError):
        text = one_line(str(error))
        if text.startswith("embedded null"):
            return "a path holds a NUL character, which no name can; give another"
        if "home directory" in text:
            return "the home folder is not known; set HOME, or GEOFILTER_CACHE and HF_HOME"
        return f"{text.removeprefix('Symlink loop from ')}: {_REMEDIES[errno.ELOOP]}"
    if error.errno is None:
        return one_line(first_line(error))
    if error.filename is None and error.errno == errno.ENOENT and not _here():
        return "the folder that geofilter runs in has been deleted; change to another"
    writes = _writes(error)
    does = "cannot be read or written" if writes is None else "cannot be written" if writes else "cannot be read"
    names = (os.fsdecode(n) for n in (error.filename2, error.filename) if isinstance(n, str | bytes | os.PathLike))
    where = next(names, None) or _spoken_of(error) or "a file"
    remedy = _REMEDIES.get(error.errno)
    return f"{where}: {does} ({error.strerror or first_line(error)}){f'; {remedy}' if remedy else ''}"


def _here() -> bool:
    try:
        return bool(os.getcwd())  # noqa: PTH109 (no path is made of it)
    except OSError:
        return False


def _writes(error: OSError) -> bool | None:
    """Whether writing failed; None where it cannot be told."""
    if error.errno in _WRITING:
        return True
    found: bool | None = None
    for frame in _frames(error.__traceback__):
        name, mode = frame.f_code.co_name, frame.f_locals.get("mode")
        if name == "open" and isinstance(mode, str):
            found = any(letter in mode for letter in "wax+")
        elif name in _WRITERS or name in _READERS:
            found = name in _WRITERS
    return found


def _spoken_of(error: OSError) -> str | None:
    """The path that was at hand where an error came from that names none: of reads and writes none does."""
    found = None
    for frame in _frames(error.__traceback__):
        if isinstance(path := frame.f_locals.get("path"), Path):
            found = str(path)
    return found


def _frames(trace: TracebackType | None) -> Iterator[FrameType]:
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next
