"""Rows made ready in a process of its own, ahead of a GPU: no thread of this one would take turns with its feeding.

The pipe between the two holds that process back: when it has made a shard ready that is not wanted yet, it waits.
"""

from __future__ import annotations

import pickle
import subprocess
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import IO, Any

from geofilter.apart import end, start
from geofilter.errors import RunError
from geofilter.scanning.ready import Job, Ready, prepared
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
        _send(process, (job, folder))
        yield lambda embedded: _received(process, embedded)
    finally:
        end(process)


def _received(process: subprocess.Popen[bytes], embedded: Callable[[], int]) -> Iterator[Ready]:
    assert process.stdout is not None
    _send(process, embedded())
    while True:
        try:
            found = pickle.load(process.stdout)  # of our own process
        except (EOFError, pickle.UnpicklingError):
            raise _ended(process) from None
        if found is None:
            return
        if isinstance(found, _Failed):
            raise found.error from _InProcess(found.trace)
        yield found


def _send(process: subprocess.Popen[bytes], what: Any) -> None:
    assert process.stdin is not None
    try:
        pickle.dump(what, process.stdin)
        process.stdin.flush()
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


class _Failed:
    """An error that has come instead of the next shard."""

    def __init__(self, error: Exception) -> None:
        self.trace = "".join(traceback.format_exception(error))
        try:
            self.error: Exception = pickle.loads(pickle.dumps(error))
        except Exception:  # another library's, which cannot be sent
            self.error = RuntimeError(f"{type(error).__name__}: {error}")


class _Gone(Exception):
    """Says that nobody waits for shards any more."""


def serve(asked: IO[bytes], answers: IO[bytes]) -> None:
    """Make shards ready for `ahead`, in a process that may be ended; return when there are no more, or no one asks."""

    def receive() -> Any:
        try:
            return pickle.load(asked)
        except (EOFError, pickle.UnpicklingError):
            raise _Gone from None

    def send(what: Any) -> None:
        try:
            pickle.dump(what, answers, pickle.HIGHEST_PROTOCOL)
            answers.flush()
        except BrokenPipeError:
            raise _Gone from None

    try:
        job, folder = receive()
        try:
            tokenizer = tokenizer_of(folder)
            for ready in prepared(job, lambda: tokenizer, cache(receive)):
                send(ready)
            send(None)
        except _Gone:
            raise
        except Exception as error:
            send(_Failed(error))
    except _Gone:
        return
