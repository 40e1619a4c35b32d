"""Tests run by several worker processes of pytest-xdist: how many, and what they make together."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "RAYON_NUM_THREADS")
"""what torch, numpy and the tokenizers ask for the number of their threads, once, when they are loaded"""

MOST = 8
MEMORY = 3 << 30
"""bytes for a worker: one with the embedded model takes half of that, a command it starts as much again"""


def how_many() -> int:
    """One worker for each CPU that this process may use, as many as the free memory holds, and no more than `MOST`."""
    import psutil

    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    free = psutil.virtual_memory().available
    # A container has limits of its own.
    quota, period = (*_limit("cpu.max"), 0, 1)[:2]
    (memory, *_) = (*_limit("memory.max"), 0)
    cpus, free = min(cpus, -(-quota // period) or cpus), min(free, memory or free)
    return max(1, min(cpus, free // MEMORY, MOST))


def _limit(name: str) -> list[int]:
    """The numbers of a limit of this process' control group; none where there is no limit."""
    try:
        return [int(word) for word in Path("/sys/fs/cgroup", name).read_text().split()]
    except (OSError, ValueError):  # no such file, or "max"
        return []


def dealt(items: list[pytest.Item], workers: int) -> list[pytest.Item]:
    """The tests in an order in which no long one is left for the end.

    Each worker starts on an equal run of the list (`--dist worksteal`): slow tests come first in it, then those of the
    embedded model.
    """
    first = [
        *(item for item in items if "slow" in item.keywords),
        *(item for item in items if "embedded" in item.keywords and "slow" not in item.keywords),
    ]
    rest = [item for item in items if not {"slow", "embedded"} & {*item.keywords}]
    out: list[pytest.Item] = []
    for worker in range(workers):
        end = len(items) * (worker + 1) // workers
        out += first[worker::workers]
        taken = end - len(out)
        out += rest[:taken]
        del rest[:taken]
    return out


def shared(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that `make` fills, once for all workers; it is only read afterwards."""
    base = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # each worker has a folder of its own in that of the session
    folder, made = base / name, base / f"{name}.made"
    with FileLock(base / f"{name}.lock"):
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # what a worker left that failed
            folder.mkdir()
            make(folder)
            made.touch()
    return folder
