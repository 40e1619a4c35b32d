"""A call of geofilter as a process of its own: its time and its peak memory."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple


class Used(NamedTuple):
    """What one call took."""

    seconds: float
    """on the clock"""
    cpu: float
    """seconds of all its threads"""
    mb: float
    """at the most. It counts what the caller held when it began, too, so the caller must stay smaller"""


def once(arguments: Sequence[str], folder: Path, env: Mapping[str, str]) -> Used:
    """Run `geofilter` with these arguments in a folder; what it prints is thrown away.

    Raises:
        SystemExit: it failed.
    """
    command = [sys.executable, "-m", "geofilter", *arguments]
    start = time.monotonic()
    pid = os.fork()
    if not pid:
        os.chdir(folder)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        os.execve(command[0], command, {**os.environ, **env})
    _, status, used = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"geofilter {' '.join(arguments)} failed; run it by hand in {folder} with {dict(env)}")
    return Used(time.monotonic() - start, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
