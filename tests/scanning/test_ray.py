"""The Ray engine: the same bytes as in one process, whoever is killed in the middle."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from helpers.command import geofilter, write_rows
from helpers.scanning import errors_of, rows, scan_args

from geofilter.run.store import Run

RAY = ("--engine", "ray", "--workers", 2)
SHARDS = 60


@pytest.fixture
def args(tiny, tiny_bank: Path, tmp_path: Path) -> list[object]:
    """A scan of `SHARDS` shards."""
    write_rows(tmp_path / "d.jsonl", rows(SHARDS * 5))
    return scan_args(tiny, tiny_bank, "--shard-rows", 5, "--quiet")


def written(run: Path) -> dict[str, bytes]:
    files = [*run.glob("features/*"), *run.glob("scores*"), run / "vectors.safetensors", run / "quarantine.jsonl"]
    return {file.name: file.read_bytes() for file in files}


def parts(run: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in run.glob("features/part-*.safetensors")}


def wait(process: subprocess.Popen[str], until: Callable[[], object]) -> bool:
    """Whether something happens while a process runs."""
    end = time.monotonic() + 120
    while not (done := bool(until())) and time.monotonic() < end and process.poll() is None:
        time.sleep(0.01)
    return done


def started(folder: Path, *args: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "geofilter", *map(str, args)], cwd=folder, stderr=subprocess.PIPE, text=True
    )


def begun(run: Path) -> list[tuple[int, str]]:
    """The process of each shard that is begun, and the shard."""
    return [(int(mark.name.split("-")[-2]), mark.parent.name) for mark in run.glob("work/attempts/*/*")]


def test_whoever_is_killed_the_bytes_are_those_of_one_process(args: list[object], tmp_path: Path):
    one = geofilter(*args, "--run", "one", cwd=tmp_path)
    assert one.returncode == 0, one.stderr
    wanted, run = written(tmp_path / "one"), tmp_path / "run"
    # A worker: its shard is lost and no other.
    process = started(tmp_path, *args, "--run", "run", *RAY)
    assert wait(process, lambda: len(parts(run)) >= 4 and begun(run))
    pid, _ = begun(run)[0]
    os.kill(pid, signal.SIGSTOP)
    held = [number for of, number in begun(run) if of == pid]
    os.kill(pid, signal.SIGKILL)
    before = parts(run)
    assert len(held) <= 1
    # The whole cluster.
    assert wait(process, lambda: len(parts(run)) >= len(before) + 4)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        fields = stat.read_text().rsplit(")", 1)[1].split()
        if int(fields[1]) == process.pid and b"gcs_server" in (stat.parent / "cmdline").read_bytes():
            os.kill(int(stat.parent.name), signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 4, said
    assert "the same geofilter scan goes on where it stopped" in said
    middle = parts(run)
    assert before.items() <= middle.items()
    assert len(before) + 4 <= len(middle) < SHARDS
    # What started it, and then it goes on in one process.
    process = started(tmp_path, *args, "--run", "run", *RAY)
    assert wait(process, lambda: len(parts(run)) >= len(middle) + 2)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert len(parts(run)) < SHARDS
    done = geofilter(*args, "--run", "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert middle.items() <= parts(run).items()
    assert written(run) == wanted
    assert Run.open(run).manifest["tokens_encoded_now"] < Run.open(tmp_path / "one").manifest["tokens_encoded_now"]
    assert not (run / "work").exists()


def test_without_ray_the_error_names_the_remedy(args: list[object], tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    done = geofilter(*args, *RAY, cwd=tmp_path)
    assert done.returncode == 2
    assert errors_of(done) == "--engine ray: Ray is not installed here; pip install 'geofilter[ray]'"
