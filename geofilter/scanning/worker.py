"""A worker: makes shards of a run, one at a time and each on its own, with a model that it loads once.

It reads the lines of a shard itself and writes its part into the run's folder; what it is told and what it answers is
small. A shard that it begins is marked in the run's folder until it has ended, so that one that kills its workers is
known, and not begun for ever.
"""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from geofilter.config import BUILT_IN
from geofilter.encode.model import choose_device, resolved_dtype
from geofilter.encode.pair import checked_reader
from geofilter.encode.template import RENDERER
from geofilter.errors import RunError, TargetError
from geofilter.files import cache_dir, make_folder, silent
from geofilter.rows.stored import fetch_again
from geofilter.run.banks import exclude
from geofilter.run.names import FEATURES, PLAN
from geofilter.run.shard import Shard, Span
from geofilter.run.store import Run
from geofilter.scanning.begun import loss_reader
from geofilter.scanning.order import ATTEMPTS, Order
from geofilter.scanning.plan import Lines, Work
from geofilter.scanning.ready import Job, made_ready
from geofilter.scanning.shards import Encoder, shares_of
from geofilter.scanning.wire import error_said
from geofilter.target.resolve import resolve
from geofilter.together import mode_of

TRIES = 3
"""times that a shard is begun by workers that then die"""


class Worker:
    """Makes shards of one run."""

    def __init__(self, run: str, threads: int | None = None) -> None:
        """Take the run's folder, or its URL.

        Args:
            threads: that the model computes with on the CPU; None for as many as there are.
        """
        self._run, self._threads = Run(run), threads
        self._encoder: Encoder | None = None

    def made(self, work: Work) -> dict[str, Any]:
        """Make a shard and write it; say so, or what went wrong.

        Returns:
            what JSON can hold: `number`, and `lines`, `bytes` and `tokens`; or `error`, see `wire.error_of`; or `died`,
            the times that it was begun.
        """
        try:
            tries = self._run.path / ATTEMPTS / f"{work.number}"
            if (died := _count(tries)) >= TRIES:
                return {"number": work.number, "died": died}
            mark = tries / f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
            try:
                tokens = self._made(work)
            finally:
                mark.unlink(missing_ok=True)
        except Exception as error:
            return {"number": work.number, **error_said(error)}
        return {"number": work.number, "lines": work.n_lines, "bytes": work.n_bytes, "tokens": tokens}

    def _made(self, work: Work) -> int:
        """Make a shard, if it is not there; return its tokens."""
        if self._encoder is None:
            self._open()
        assert self._encoder is not None
        path = self._run.part(work.number)
        if _is_there(path, Span(self._job.fingerprint, work.number, work.first, work.n_lines)):
            return 0
        reader = self._reader
        ready = made_ready(self._job, work, self._lines.of(work), reader.tokenizer, lambda: reader.embedded)
        self._run.keep(self._encoder.encoded(ready), self._mode)
        return ready.n_tokens

    def _open(self) -> None:
        """Load what the run asks for.

        Raises:
            RunError: the run's folder, or that which its paths are named from, cannot be seen from here.
            TargetError: this machine computes otherwise than the one that began the scan.
        """
        if self._run.mirror is not None:
            self._run.mirror.pull()
            make_folder(self._run.path / FEATURES)
        order = Order.read(self._run)
        _enter(order.here, in_store=self._run.mirror is not None)
        fetch_again(order.files, silent)
        loading = order.config.loading
        found = choose_device(loading.device).type, resolved_dtype(loading)
        if found != (order.device, order.dtype):
            raise TargetError(
                f"{socket.gethostname()}: would read the model on {found[0]} in {found[1]}, but the scan was begun on "
                f"{order.device} in {order.dtype}; give --device and --dtype that all machines have"
            )
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        if order.device == "cpu":  # rows are rendered in this process: it is ready when the model is
            RENDERER.start_ahead()
        config = order.config
        target = resolve(config.target, offline=order.offline, notify=silent)
        self._reader = checked_reader(target, loading, silent, config.max_tokens)
        self._mode = mode_of(Path(info["path"]) for info in order.files)
        banks = exclude(order.open_banks(self._run), config.exclude_features, BUILT_IN)
        shares = None if config.no_token_shares else shares_of(banks, config.scorer)
        self._lines = Lines(order.files)
        self._job = Job.of(config, order.files, self._run.path / PLAN, (), order.fingerprint)
        self._encoder = Encoder(
            order.files, lambda: self._reader, shares, fail=config.on_error == "fail",
            loss=loss_reader(config, target, order.offline, silent),
        )  # fmt: skip


def _enter(folder: str, *, in_store: bool) -> None:
    """Go to the folder that all paths are named from.

    Args:
        in_store: the run is in a store, and may have inputs there: then another folder will do.

    Raises:
        RunError: it cannot be seen from here.
    """
    try:
        if in_store and not Path(folder).is_dir():
            folder = str(cache_dir() / "workers" / hashlib.sha256(folder.encode()).hexdigest()[:16])
            make_folder(Path(folder))
        os.chdir(folder)
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be entered on {socket.gethostname()} ({error.strerror}); workers need the data, the run "
            "and the model at the same paths as the scan that was started, or the data and the run in a store"
        ) from None


def _count(folder: Path) -> int:
    try:
        return sum(1 for _ in folder.iterdir())
    except FileNotFoundError:
        return 0


def _is_there(path: Path, span: Span) -> bool:
    """Whether a shard has been made already, by this engine or another."""
    if not path.is_file():
        return False
    try:
        return Shard.load(path).span == span
    except RunError:
        return False


def told(said: Mapping[str, Any], work: Work, files: list[str]) -> str:
    """What is said of a shard whose workers died."""
    return (
        f"{files[work.file]}, line {work.line + 1:,}: the worker died {said['died']} times on the {work.n_lines:,} "
        f"rows from here on (shard {work.number})"
    )
