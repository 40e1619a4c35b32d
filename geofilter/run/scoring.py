"""Scoring by several processes at once, which goes on where it was stopped.

    scoring/bank-0/                     the banks, for the processes to load
    scoring/part-00000.safetensors      a shard that has been scored, see `part.Part`

Each process scores one shard after the other, with one thread, and leaves a file of each; this process puts them
together in their order. So what is written does not depend on how many processes there are. A file is believed that
holds the hash of all that its scores depend on. `Run.write_manifest` takes the folder away once the run is complete.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, TypedDict

from geofilter.apart import end, start
from geofilter.bank.bank import ABOUT, ARRAYS, Bank
from geofilter.errors import BankError, InputError, RunError
from geofilter.files import file_sha256, make_folder
from geofilter.run.names import SCORING
from geofilter.run.part import Part, PartMaker
from geofilter.run.shard import Outline
from geofilter.run.store import Run
from geofilter.together import clear_stale
from geofilter.version import __version__

APART = 30_000
"""rows from which on processes of their own are faster, which take half a second to start"""
MOST = 16
"""processes at most: this one puts together what so many make"""


class BankPlace(TypedDict):
    """A bank, for a process to load."""

    folder: str
    excluded: list[int]


class Job(TypedDict):
    """What a process needs before it can score."""

    banks: list[BankPlace]
    scorer: str
    paths: list[str]
    stride: int


class Task(TypedDict):
    """A shard to score."""

    shard: str
    before: int
    """scored rows of the run that are before it"""
    part: str
    """where what comes of it belongs"""
    key: str


class Answer(TypedDict):
    """What came of a task: why the shard or the bank is not usable, or the file cannot be written, or nothing."""

    shard: str
    bank: str
    disk: str


def scored_apart(run: Run, shards: Sequence[Outline], banks: Sequence[Bank], maker: PartMaker) -> Generator[Part]:
    """The shards of a run in their order, scored by processes of their own.

    Raises:
        RunError: a shard is damaged, or a process was ended.
        BankError: a bank gives a score that is no number.
        InputError: the run's folder cannot be written.
    """
    folder = run.path / SCORING
    make_folder(folder)
    clear_stale(folder)
    job: Job = {
        "banks": [_placed(bank, folder / f"bank-{i}", run.mode) for i, bank in enumerate(banks)],
        "scorer": maker.name,
        "paths": list(maker.paths),
        "stride": maker.stride,
    }
    key = _key(job)
    before = accumulate((shard.n for shard in shards), initial=0)
    tasks: list[Task] = [
        {
            "shard": str(shard.path),
            "before": n,
            "part": str(folder / shard.path.name),
            "key": hashlib.sha256(f"{key} {n} {shard.mark}".encode()).hexdigest(),
        }
        for shard, n in zip(shards, before, strict=False)
    ]
    with _Processes(run, job) as processes:
        waiting = [None if Part.is_of(Path(task["part"]), task["key"]) else processes.submit(task) for task in tasks]
        for i, task in enumerate(tasks):
            future, waiting[i] = waiting[i], None
            yield _part(processes, task, future)


def _part(processes: _Processes, task: Task, future: Future[None] | None) -> Part:
    if future is not None:
        future.result()
    path = Path(task["part"])
    part = Part.load(path, task["key"])
    if part is None and future is None:  # what an earlier call has left is damaged
        processes.submit(task).result()
        part = Part.load(path, task["key"])
    if part is None:
        raise RunError(f"{path}: is not what was written; run the same command again")
    return part


def _not_written(path: Path, why: str) -> InputError:
    return InputError(f"{path}: cannot be written ({why}); choose another place")


def _placed(bank: Bank, folder: Path, mode: int | None) -> BankPlace:
    try:
        bank.save(folder, mode)
    except BankError as error:
        raise _not_written(folder, str(error.__context__)) from None
    return {"folder": str(folder), "excluded": list(bank.excluded)}


def _key(job: Job) -> str:
    """Hash of all that scores depend on, but for the shards."""
    sums = [file_sha256(Path(bank["folder"]) / name) for bank in job["banks"] for name in (ABOUT, ARRAYS)]
    return hashlib.sha256(json.dumps([__version__, job, sums]).encode()).hexdigest()


class _Processes:
    """Processes that score shards, as many as there are cores; each is started when there is a shard for it."""

    def __init__(self, run: Run, job: Job) -> None:
        self._run, self._job = run, job
        self._pool = ThreadPoolExecutor(min(MOST, _cores()))
        self._started: list[subprocess.Popen[bytes]] = []
        self._free: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        for process in self._started:
            end(process)
        self._pool.shutdown()
        for process in self._started:  # one may have been started meanwhile
            end(process)

    def submit(self, task: Task) -> Future[None]:
        """Have a shard scored."""
        return self._pool.submit(self._score, task)

    def _score(self, task: Task) -> None:
        process = self._process()
        answer = _asked(process, task)
        if answer is None:
            code = process.wait()
            raise RunError(
                f"{self._run.path}: a process that scores its rows was ended, with code {code}; run the same command "
                "again, which goes on where it stopped"
            )
        if answer["shard"]:
            raise self._run.damaged(Path(task["shard"]).relative_to(self._run.path).as_posix(), answer["shard"])
        if answer["bank"]:
            raise BankError(answer["bank"])
        if answer["disk"]:
            raise _not_written(Path(task["part"]), answer["disk"])
        self._free.put(process)

    def _process(self) -> subprocess.Popen[bytes]:
        with suppress(Empty):
            return self._free.get_nowait()
        process = start("run.score_apart", spare=False)
        self._started.append(process)
        _send(process, self._job)
        return process


def _send(process: subprocess.Popen[bytes], value: Any) -> None:
    assert process.stdin is not None
    with suppress(OSError):  # it has been ended: it will not answer
        process.stdin.write(json.dumps(value).encode() + b"\n")
        process.stdin.flush()


def _asked(process: subprocess.Popen[bytes], task: Task) -> Answer | None:
    """What a process answers; None where it has been ended."""
    assert process.stdout is not None
    _send(process, task)
    with suppress(OSError, ValueError):
        answer: Answer = json.loads(process.stdout.readline())
        return answer
    return None


def _cores() -> int:
    """Processor cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        return os.cpu_count() or 1
