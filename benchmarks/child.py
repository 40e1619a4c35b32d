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
    """at the most, of the largest process. It counts what the caller held when it began, too, so the caller must stay
    smaller
    """
    all_mb: float
    """of it and the processes it starts together, looked at twenty times a second; pages they share count for each"""


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
    together, ended, status = 0, 0, 0
    while not ended:
        together = max(together, _held(pid))
        time.sleep(0.05)
        ended, status, used = os.wait4(pid, os.WNOHANG)
    if status:
        raise SystemExit(f"geofilter {' '.join(arguments)} failed; run it by hand in {folder} with {dict(env)}")
    seconds = time.monotonic() - start
    return Used(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024, together / (1 << 20))


def _held(pid: int) -> int:
    """Bytes that a process and those below it hold in memory now; 0 where the system does not tell."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        below = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(_held(int(of)) for of in below)
