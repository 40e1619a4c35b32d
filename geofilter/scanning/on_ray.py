"""The Ray engine: shards made by workers of a Ray cluster, each an actor with a model of its own.

Ray Data is sent where each shard's lines stand, a shard a block, and gives back what was made of it; lines and features
do not go through it. Some thousand shards for each worker at a time are read from the plan and make a data set of their
own, since what Ray Data keeps of each block in this process would add up. Ray's own checkpoints are not used: a part in
the run's folder is one.
"""

from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from geofilter.encode.memory import give_back
from geofilter.errors import InputError, RunError, first_line
from geofilter.files import from_json, json_text
from geofilter.run.store import Run
from geofilter.scanning.order import Order
from geofilter.scanning.plan import Plan, Ranges, Work
from geofilter.scanning.shards import Telling
from geofilter.scanning.spread import Spread
from geofilter.scanning.wire import error_of
from geofilter.scanning.worker import Worker, told
from geofilter.text import one_line, shorten

if TYPE_CHECKING:
    from ray.data import Dataset

WAVE = 1000
"""shards for each worker that make a data set: at its end workers are started anew, which takes a fiftieth at most of
what they have worked for"""
LOOK, MISSED = 1.0, 5
"""seconds between two looks at the head of the cluster; looks without an answer, after which it is gone"""
AT_ONCE = 2000
"""shards that are sent together to where they become blocks"""
INSTALL = "pip install 'geofilter[ray]'"
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
"""a Ray that is started here reports to nobody, and warns of nothing that the scan sees to itself"""


def encode_on_ray(run: Run, plan: Plan, todo: Ranges, order: Order, spread: Spread, telling: Telling) -> int:
    """Make shards on workers; return the tokens encoded.

    Args:
        order: that lies in the run's folder.

    Raises:
        InputError: Ray is not installed, the cluster cannot be reached or has too little, or a row cannot be scored,
            where that is an error.
        RunError: workers died on a shard again and again.
    """
    files = [info["path"] for info in order.files]
    tokens = n_bytes = 0
    left, died = plan.n_bytes(todo), list[str]()
    on_gpu = order.device == "cuda"
    with _cluster(spread, on_gpu) as (workers, cpus), _watched():
        for wave in _waves(todo, WAVE * workers):
            for said in _made(run, plan, wave, workers, cpus, on_gpu):
                if "error" in said:
                    raise error_of(said)
                if "died" in said:
                    died.append(told(said, plan[said["number"]], files))
                    continue
                tokens, n_bytes = tokens + said["tokens"], n_bytes + said["bytes"]
                telling.expected(round(tokens * max(1.0, left / max(1, n_bytes))))
                telling.progress(said["lines"], said["tokens"])
            give_back()  # what Ray Data has kept of each shard
    if died:
        more = "" if len(died) == 1 else f" (and {len(died) - 1} more)"
        raise RunError(f"{died[0]}{more}; free memory or look at these rows, and start the same scan again")
    return tokens


@contextmanager
def _cluster(spread: Spread, on_gpu: bool) -> Iterator[tuple[int, int]]:
    """Workers, and CPUs for each of them.

    Raises:
        InputError: see `encode_on_ray`.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError:
        raise InputError(f"--engine ray: Ray is not installed here; {INSTALL}") from None
    mine = not ray.is_initialized()
    try:
        if mine:
            own: dict[str, Any] = {}
            if spread.address is None:  # as many workers as are asked for, though they share the CPUs
                own = {"include_dashboard": False, "num_cpus": max(os.cpu_count() or 1, spread.workers or 1)}
            with _hushed():
                ray.init(address=spread.address, log_to_driver=False, logging_level=logging.ERROR, **own)
        # What it logs stays in its own files.
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise InputError(
            f"--address {spread.address}: no Ray cluster can be reached ({first_line(error)}); start one with ray "
            "start --head, or leave it out for this machine"
        ) from None
    try:
        has = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        nodes = [(int(node.get("CPU", 0)), int(node.get("GPU", 0))) for node in has]
        workers = spread.workers or (sum(gpus for _, gpus in nodes) if on_gpu else 1)
        yield workers, cpus_of(workers, nodes, on_gpu=on_gpu)
    except _GoneError:
        mine = False  # there is nobody left to say goodbye to, and Ray would wait for an answer
        raise
    finally:
        if mine:
            ray.shutdown()


def cpus_of(workers: int, nodes: Sequence[tuple[int, int]], *, on_gpu: bool) -> int:
    """CPUs for each of some workers: as many as let all of them find a place.

    Args:
        nodes: CPUs and GPUs of each machine.
        on_gpu: a worker takes a GPU too.

    Raises:
        InputError: there is no place for so many.
    """

    def places(each: int) -> int:
        return sum(min(cpus // each, gpus) if on_gpu else cpus // each for cpus, gpus in nodes)

    most = max((cpus for cpus, _ in nodes), default=0)
    found = next((each for each in range(most, 0, -1) if places(each) >= workers > 0), 0)
    if not found:
        what = "a GPU and a CPU" if on_gpu else "a CPU"
        raise InputError(
            f"--workers {workers}: a worker takes {what} at least, and the cluster has room for "
            f"{places(1)}; give fewer, or start more machines"
        )
    return found


class _GoneError(RunError):
    """The head of the cluster does not answer any more."""


@contextmanager
def _watched() -> Iterator[None]:
    """Look after the head of the cluster; without it Ray ends this process after a while, and says nothing.

    Raises:
        RunError: it is gone.
    """
    import ray

    host, port = ray.get_runtime_context().gcs_address.rsplit(":", 1)
    done, gone = threading.Event(), threading.Event()

    def watch() -> None:
        missed = 0
        while not done.wait(LOOK):
            try:
                socket.create_connection((host, int(port)), LOOK).close()
                missed = 0
            except OSError:
                missed += 1
            if missed == MISSED:
                gone.set()
                os.kill(os.getpid(), signal.SIGINT)  # which ends the main thread's waiting, too
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    except (KeyboardInterrupt, RunError):
        if not gone.is_set():
            raise
        raise _GoneError(
            "the Ray cluster is gone; the same geofilter scan goes on where it stopped, with either engine"
        ) from None
    finally:
        done.set()


@contextmanager
def _hushed() -> Iterator[None]:
    """Keep off standard error what Ray's core writes there as it starts; its errors are raised besides."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nothing:  # noqa: PTH123 - a device
            os.dup2(nothing.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _waves(todo: Ranges, size: int) -> Iterator[Ranges]:
    """The same shards in lots of not much over so many."""
    wave, n = list[tuple[int, int]](), 0
    for start, stop in todo:
        while start < stop:
            end = min(stop, start + size - n)
            wave.append((start, end))
            n, start = n + end - start, end
            if n == size:
                yield wave
                wave, n = [], 0
    if wave:
        yield wave


def _made(run: Run, plan: Plan, wave: Ranges, workers: int, cpus: int, on_gpu: bool) -> Iterator[dict[str, Any]]:
    """What the workers say of each shard, in the order in which they are done."""
    from ray.exceptions import RayError

    try:
        data = _planned(plan, wave)
        made = _mapped(data, str(run.path.resolve()) if run.mirror is None else run.called, workers, cpus, on_gpu)
        for batch in made.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            yield from (from_json(text) for text in batch.column("said").to_pylist())
    except RayError as error:
        raise RunError(
            f"Ray failed ({shorten(one_line(str(error).strip().splitlines()[-1]), 200)}); see that the workers have "
            "the same packages as this machine; the same geofilter scan goes on where it stopped, with either engine"
        ) from None


def _planned(plan: Plan, wave: Ranges) -> Dataset:
    """Shards as a data set, a shard a block; each is looked up in the plan when there is room for it."""
    import pyarrow as pa
    import ray.data
    from ray.data import DataContext, Datasource, ReadTask
    from ray.data.block import BlockMetadata

    def blocks(works: Sequence[str]) -> Iterable[pa.Table]:
        return (pa.table({"work": [work]}) for work in works)

    class Works(Datasource):  # type: ignore[misc]
        """The shards of a plan."""

        def estimate_inmemory_data_size(self) -> int:
            return sum(stop - start for start, stop in wave) * 200

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[ReadTask]:
            tasks = []
            texts = (json_text(work.to_json()) for work in plan.read(wave))
            while lot := list(itertools.islice(texts, AT_ONCE)):
                about = BlockMetadata(len(lot), sum(map(len, lot)), None, None)
                tasks.append(ReadTask(partial(blocks, lot), about))
            return tasks

    context = DataContext.get_current()
    context.enable_progress_bars = False
    # What Ray Data gathers to blocks of this many bytes is then one row.
    context.target_max_block_size = 1
    n = sum(stop - start for start, stop in wave)
    # One after the other: they take no CPU from the workers, so that nothing else would bound how many there are.
    return ray.data.read_datasource(Works(), override_num_blocks=-(-n // AT_ONCE), num_cpus=0, concurrency=1)


def _mapped(data: Dataset, run: str, workers: int, cpus: int, on_gpu: bool) -> Dataset:
    """What a pool of workers makes of each shard."""
    import pyarrow as pa
    from ray.data import ActorPoolStrategy

    threads = None if on_gpu else cpus

    class Reads:
        """A worker, as Ray Data calls it."""

        def __init__(self) -> None:
            self._worker = Worker(run, threads)

        def __call__(self, batch: pa.Table) -> pa.Table:
            works = (Work(*from_json(text)) for text in batch["work"].to_pylist())
            return pa.table({"said": [json_text(self._worker.made(work)) for work in works]})

    # One at a time: what waits at a slow worker would hold the rest back.
    pool = ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=1)
    return data.map_batches(
        Reads, batch_size=None, batch_format="pyarrow", compute=pool, num_cpus=cpus, num_gpus=1 if on_gpu else None
    )
