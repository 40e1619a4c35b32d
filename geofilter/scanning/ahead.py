"""Rows made ready in a process of its own, ahead of a GPU: no thread of this one would take turns with its feeding.

The pipe between the two holds that process back: when it has made a shard ready that is not wanted yet, it waits.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

from geofilter.apart import end, start
from geofilter.errors import RunError
from geofilter.scanning.ready import Job, Ready, prepared
from geofilter.scanning.wire import (
    Arrays,
    error_of,
    error_said,
    job_of,
    job_said,
    ready_of,
    ready_said,
    receive,
    send,
)
from geofilter.target.tokenizer import tokenizer_of

PATIENCE = 10.0
"""seconds that a process whose pipe is closed has to end"""


@contextmanager
def ahead(job: Job, folder: Path) -> Iterator[Callable[[Callable[[], int]], Iterator[Ready]]]:
    """Begin to make shards ready in a process of its own, which ends with this block.

    Args:
        folder: of the model.

    Yields:
        what gives the shards, in their order, when it is told how many tokens the model has an embedding for; see
        `ready.prepared` for what that raises, and `RunError` where the process is killed.
    """
    process = start("scanning.ready_apart", spare=False)
    try:
        _tell(process, job_said(job, folder))
        yield lambda embedded: _received(process, embedded)
    finally:
        end(process)


def _received(process: subprocess.Popen[bytes], embedded: Callable[[], int]) -> Iterator[Ready]:
    assert process.stdout is not None
    _tell(process, embedded())
    while True:
        try:
            said, arrays = receive(process.stdout)
        except EOFError:
            raise _ended(process) from None
        if said is None:
            return
        if "error" in said:
            raise error_of(said) from _InProcess(said["trace"])
        yield ready_of(said, arrays)


def _tell(process: subprocess.Popen[bytes], said: Any) -> None:
    assert process.stdin is not None
    try:
        send(process.stdin, said)
    except BrokenPipeError:
        raise _ended(process) from None


def _ended(process: subprocess.Popen[bytes]) -> RunError:
    """The error of a process that has ended and should not have."""
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        code = end(process)
    why = "was killed, as systems do when memory runs out" if code == -9 else f"has ended with code {code}"
    return RunError(
        f"the process that tokenises the rows {why}; free memory, and the same geofilter scan goes on where it stopped"
    )


class _InProcess(Exception):
    """Shows the traceback of an error in the other process, as its cause."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class _Gone(Exception):
    """Says that nobody waits for shards any more."""


def serve(asked: IO[bytes], answers: IO[bytes]) -> None:
    """Make shards ready for `ahead`, in a process that may be ended; return when there are no more, or no one asks."""

    def asked_for() -> Any:
        try:
            return receive(asked)[0]
        except EOFError:
            raise _Gone from None

    def answer(said: Any, arrays: Arrays | None = None) -> None:
        try:
            send(answers, said, arrays)
        except BrokenPipeError:
            raise _Gone from None

    try:
        job, folder = job_of(asked_for())
        try:
            tokenizer = tokenizer_of(folder)
            for ready in prepared(job, lambda: tokenizer, cache(asked_for)):
                answer(*ready_said(ready))
            answer(None)
        except _Gone:
            raise
        except Exception as error:
            answer(error_said(error))
    except _Gone:
        return
