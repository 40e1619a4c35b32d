"""The Ray engine: the same bytes as in one process, whoever is killed in the middle."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.scanning import errors_of, rows, scan_args

from geofilter.scanning.worker import TRIES

RAY = ("--engine", "ray", "--workers", 2)
SHARDS = 60


@pytest.fixture
def args(tiny, tiny_bank: Path, tmp_path: Path) -> list[object]:
    """A scan of `SHARDS` shards, of which the last one takes a while."""
    long = [chat("question?", f"the answer is {i} " * 8000) for i in range(5)]
    write_rows(tmp_path / "d.jsonl", [*rows(SHARDS * 5 - 5), *long])
    return scan_args(tiny, tiny_bank, "--shard-rows", 5, "--quiet")


def written(run: Path) -> dict[str, bytes]:
    files = [*run.glob("features/*"), *run.glob("scores*"), run / "vectors.safetensors", run / "quarantine.jsonl"]
    return {file.name: file.read_bytes() for file in files}


def parts(run: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in run.glob("features/part-*.safetensors")}


def wait(process: subprocess.Popen[str], until: Callable[[], object]) -> bool:
    """Whether something happens while a process runs."""
    end = time.monotonic() + 300
    while not (done := bool(until())) and time.monotonic() < end and process.poll() is None:
        time.sleep(0.01)
    return done


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Starts a command as a process of its own, which does not outlive the test."""
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else workers wait for every other test that computes
    begun: list[subprocess.Popen[str]] = []

    def call(*args: object) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "geofilter", *map(str, args)]
        begun.append(subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True))
        return begun[-1]

    yield call
    for process in begun:
        with process:
            process.kill()


def begun(run: Path) -> list[tuple[int, str]]:
    """The process of each shard that is begun, and the shard."""
    while True:
        try:
            marks = list(run.glob("work/attempts/*/*"))
        except FileNotFoundError:  # a folder went while they were looked through
            continue
        return [(int(mark.name.split("-")[-2]), mark.parent.name) for mark in marks]


def kill_head(of: int) -> None:
    """Kill what a cluster that a process has started cannot be without."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
        if parent == of and b"gcs_server" in (stat.parent / "cmdline").read_bytes():
            os.kill(int(stat.parent.name), signal.SIGKILL)


@pytest.mark.slow
def test_whoever_is_killed_the_bytes_are_those_of_one_process(args: list[object], start, tmp_path: Path, long: bool):
    """The cluster, and a worker again and again; with --long what has started the cluster, too."""
    one = geofilter(*args, "--run", "one", cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    wanted, run = written(tmp_path / "one"), tmp_path / "run"
    # The whole cluster.
    process = start(*args, "--run", "run", *RAY)
    assert wait(process, lambda: len(parts(run)) >= 4)
    kill_head(process.pid)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 4, said
    assert "the Ray cluster is gone; the same geofilter scan goes on where it stopped" in said
    after_cluster = parts(run)
    assert 4 <= len(after_cluster) < SHARDS
    if long:  # what has started it
        process = start(*args, "--run", "run", *RAY)
        assert wait(process, lambda: len(parts(run)) >= len(after_cluster) + 2)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    # Each worker that begins the last shard: it costs that shard, and no other.
    shard, killed = str(SHARDS - 1), list[int]()
    mine = lambda: [pid for pid, number in begun(run) if number == shard and pid not in killed]  # noqa: E731
    process = start(*args, "--run", "run", *RAY)
    for _ in range(TRIES):
        assert wait(process, mine)
        (pid,) = mine()
        os.kill(pid, signal.SIGSTOP)
        assert mine() == [pid]
        os.kill(pid, signal.SIGKILL)
        killed.append(pid)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 4, said
    assert (
        f"d.jsonl, line {int(shard) * 5 + 1}: the worker died 3 times on the 5 rows from here on (shard {shard})"
        in said
    )
    after_workers = parts(run)
    assert len(after_workers) == SHARDS - 1
    assert after_cluster.items() <= after_workers.items()
    # One process makes what is missing, and nothing else.
    done = geofilter(*args, "--run", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert after_workers.items() <= parts(run).items()
    assert written(run) == wanted
    assert not (run / "work").exists()


def test_without_ray_the_error_names_the_remedy(args: list[object], tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    done = geofilter(*args, *RAY, cwd=tmp_path)
    assert done.returncode == 2
    assert errors_of(done) == "--engine ray: Ray is not installed here; pip install 'geofilter[ray]'"
