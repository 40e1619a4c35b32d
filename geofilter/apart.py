"""Processes of their own for work on what strangers made: files and templates that may fill the memory or never end.

What runs in such a process may be ended at any time, even within a library's code, and takes nothing else with it.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

MEMORY = 1 << 30
"""bytes that such a process may hold"""
NO_MEMORY = 3
"""exit code of one that needs more"""
ALONE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""threads reserve memory, which counts"""
MALLOC = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "2"}
"""allocators that reserve more than is asked for would soon be at the limit"""
_AHEAD: dict[tuple[str, ...], tuple[int, subprocess.Popen[bytes]]] = {}
"""module and arguments -> the process that was started ahead, and by which one"""


def start_ahead(module: str, *args: str) -> None:
    """Start what `start` is to give out once, so that it loads while this process does something else."""
    if (module, *args) not in _AHEAD:
        _AHEAD[module, *args] = os.getpid(), _started(module, *args)


@atexit.register
def end_unused() -> None:
    """End what was started ahead and not asked for."""
    while _AHEAD:
        by, process = _AHEAD.popitem()[1]
        if by == os.getpid():
            end(process)


def start(module: str, *args: str, spare: bool = True) -> subprocess.Popen[bytes]:
    """Start a module of this package with pipes to its standard input and from its standard output.

    It imports what this process would, from wherever that is found, and writes no messages of its own.

    Args:
        spare: allocate as `limit_memory` needs it; one that works on many threads without a limit is faster without.
    """
    by, process = _AHEAD.pop((module, *args), (0, None))
    if process is not None and by == os.getpid() and process.poll() is None:
        return process
    return _started(module, *args, spare=spare)


def _started(module: str, *args: str, spare: bool = True) -> subprocess.Popen[bytes]:
    path = os.pathsep.join(part or str(Path.cwd()) for part in sys.path)
    return subprocess.Popen(
        [sys.executable, "-m", f"geofilter.{module}", *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **ALONE, **(MALLOC if spare else {}), "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
        start_new_session=True,  # an interrupt is for the process that started it
    )


def end(process: subprocess.Popen[bytes]) -> int:
    """End a process, unless it has ended; return its exit code."""
    process.kill()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with suppress(OSError):  # what was not sent yet is not read any more
                pipe.close()
    return process.wait()


def limit_memory(most: int = MEMORY) -> None:
    """Let this process hold no more than `most` bytes; where the system knows no such limit it has none."""
    try:
        import resource
    except ImportError:  # Windows
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    try:
        resource.setrlimit(resource.RLIMIT_DATA, (most if hard < 0 else min(most, hard), hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    except (ValueError, OSError):
        return


def limit_time(seconds: float) -> None:
    """End this process when it has computed for so long from now on; each call begins anew."""
    if hasattr(signal, "setitimer"):  # not on Windows
        signal.setitimer(signal.ITIMER_PROF, seconds)


def ran_long(code: int) -> bool:
    """Whether `limit_time` has ended a process with this exit code."""
    return hasattr(signal, "SIGPROF") and code == -signal.SIGPROF


def ran_out_of(code: int) -> str:
    """What ended a process that was to say so itself and did not, in words.

    Args:
        code: its exit code.
    """
    if code == NO_MEMORY:
        return f"it takes over {MEMORY / (1 << 30):g} GiB of memory"
    if ran_long(code):
        return "it takes too long"
    return f"reading it ends its process, with code {code}"
