"""The command line as a process: what its signals, its standard streams and its end are."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from functools import partial
from types import FrameType
from typing import Any

from geofilter.cli.edge import TRACEBACK, guarded
from geofilter.errors import INTERRUPTED, OutputError, ReaderGone

_ENDING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
AGAIN = 0.05
"""seconds after which an interrupt that could not be raised where it came is raised again"""


def run() -> None:
    """Run the command line; the process ends with its exit code.

    SIGTERM and SIGHUP end it as Ctrl-C does: temporary files go, finished work stays.

    Raises:
        SystemExit: always.
    """
    if os.name == "posix":
        _open_streams()
    came = _hear_signals()
    sys.unraisablehook = partial(_unraisable, came)
    code = guarded(_command)
    if code == INTERRUPTED:
        code = next((128 + number for number in came if number != signal.SIGINT), code)
    for number in _ENDING:
        # All is done and flushed. What a library still tears down may be cut short, and must not say so.
        if signal.getsignal(number) not in (signal.SIG_IGN, signal.SIG_DFL, None):
            signal.signal(number, lambda *_: os._exit(code))
    raise SystemExit(code)


def _command() -> None:
    from geofilter.cli.app import app

    app()


def _hear_signals() -> list[int]:
    """See to it that what ends a process raises KeyboardInterrupt here. In the list are the signals that came."""
    came: list[int] = []

    def end(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        raise KeyboardInterrupt

    for number in _ENDING:
        # What is ignored, by nohup for instance, stays so.
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, end)
    return came


def _unraisable(came: Sequence[int], unraisable: Any) -> None:
    """Python prints what is raised where nothing can be raised, in `__del__` for instance. An interrupt comes again."""
    if isinstance(unraisable.exc_value, KeyboardInterrupt) and came:
        timer = threading.Timer(AGAIN, _send, (came[0],))
        timer.daemon = True
        timer.start()
    elif os.environ.get(TRACEBACK):
        sys.__unraisablehook__(unraisable)


def _send(number: int) -> None:
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, number)  # which ends its waiting, too
    else:
        signal.raise_signal(number)


def _open_streams() -> None:
    """Standard streams that fail as they should: stdout with an error of ours, stderr silently."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            # Closed by who started us. The next file that is opened would take its number, and be written by whatever
            # prints. This one cannot be written, as was wished; notes are dropped.
            os.open(os.devnull, os.O_WRONLY if fd == 2 else os.O_RDONLY)
    sys.stdout = _stream(_Out(1, "wb", closefd=False), sys.stdout)
    sys.stderr = _stream(_Notes(2, "wb", closefd=False), sys.stderr, line_buffering=True, errors="backslashreplace")


def _stream(raw: io.FileIO, was: Any, **more: Any) -> io.TextIOWrapper:
    """A text stream over `raw` that is otherwise as it was; `was` is None where the stream was closed."""
    settings: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}
    if was is not None:
        settings = {k: getattr(was, k) for k in ("encoding", "errors", "line_buffering", "write_through")}
    return io.TextIOWrapper(io.BufferedWriter(raw), **{**settings, **more})


class _Out(io.FileIO):
    """Standard output. What fails once is not tried again, not when the interpreter ends either."""

    failed = False

    def write(self, data: Any, /) -> int:
        """Write bytes.

        Raises:
            OutputError: they cannot be written.
        """
        if self.failed:
            return len(data)
        try:
            return super().write(data)
        except OSError as error:
            self.failed = True
            if error.errno == errno.EPIPE:
                raise ReaderGone("standard output: its reader has gone") from None
            raise OutputError(f"standard output: cannot be written ({error.strerror})") from None


class _Notes(io.FileIO):
    """Standard error. A note that cannot be written stops nothing: results are elsewhere, and the exit code is told."""

    def write(self, data: Any, /) -> int:
        """Write bytes, or drop them."""
        try:
            return super().write(data)
        except OSError:
            return len(data)
