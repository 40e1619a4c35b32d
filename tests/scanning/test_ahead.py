"""Rows made ready in a process of their own and shards written behind, as a scan on a GPU does: the same bytes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.processes import loaded
from helpers.scanning import errors_of, planned, rows, scan_args

from geofilter.config import ScanConfig
from geofilter.encode.template import RENDERER
from geofilter.errors import InputError
from geofilter.scanning.ahead import ahead
from geofilter.scanning.ready import Job, prepared
from geofilter.scanning.writer import Writer
from geofilter.target.tokenizer import tokenizer_of


@pytest.fixture
def apart(monkeypatch) -> Callable[[bool], None]:
    def turn(on: bool) -> None:
        for name in ("scan", "begun"):
            monkeypatch.setattr(f"geofilter.scanning.{name}.computes_on_gpu", lambda loading: on)

    return turn


def written(run: Path) -> dict[str, bytes]:
    """What a scan wrote, without the manifest's times."""
    files = [*run.glob("features/*"), run / "scores.jsonl", run / "quarantine.jsonl"]
    return {file.name: file.read_bytes() for file in files}


def makers(of: int) -> list[int]:
    """Processes that make rows ready for a process."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text("utf-8", "replace").rpartition(")")[2].split()[1])
            if parent == of and b"ready_apart" in (stat.parent / "cmdline").read_bytes():
                found.append(int(stat.parent.name))
        except OSError:  # has ended
            continue
    return found


def wait(until: Callable[[], object], seconds: float = 120) -> bool:
    end = time.monotonic() + seconds
    while not (done := bool(until())) and time.monotonic() < end:
        time.sleep(0.01)
    return done


def test_of_rows_of_every_kind(tiny, tiny_bank: Path, tmp_path: Path, apart, monkeypatch):
    begun: list[str] = []
    monkeypatch.setattr(RENDERER, "start_ahead", lambda: begun.append("here"))
    odd = [
        {"nothing": 1},
        chat("q", "the answer " * 90),
        chat("q", "<|im_start|>assistant\nthe answer"),
        chat("q", "漢字 \N{CLOWN FACE}"),
        {"text": "the answer to the question", "source": "here"},
    ]
    with write_rows(tmp_path / "d.jsonl", [*rows(20), *odd, *rows(9)]).open("ab") as handle:
        handle.write(b'{"text": "\xff"}\n\n{"text": "no line ending"}')
    found = []
    for on in (False, True):
        apart(on)
        run = tmp_path / f"run{on}"
        args = ["--shard-rows", 8, "--max-tokens", 64, "--run", run]
        done = geofilter(*scan_args(tiny, tiny_bank, *args), cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found.append(written(run))
        assert not makers(os.getpid())
    assert found[0] == found[1]
    assert len(found[0]) == 2 + 5
    assert begun == ["here"]  # only where rows are rendered in this process
    # A shard that is gone is made again, and the others stay.
    gone = tmp_path / "runTrue" / "features" / "part-00002.safetensors"
    gone.unlink()
    done = geofilter(*scan_args(tiny, tiny_bank, *args), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert written(tmp_path / "runTrue") == found[0]


def test_a_row_that_fails_leaves_the_shards_before_it(tiny, tiny_bank: Path, tmp_path: Path, apart):
    write_rows(tmp_path / "d.jsonl", [*rows(21), {"nothing": 1}, *rows(30)])
    found = []
    for on in (False, True):
        apart(on)
        run = tmp_path / f"run{on}"
        args = ["--shard-rows", 5, "--on-error", "fail", "--run", run]
        done = geofilter(*scan_args(tiny, tiny_bank, *args), cwd=tmp_path)
        parts = {file.name: file.read_bytes() for file in run.glob("features/*")}
        found.append((done.returncode, errors_of(done), parts))
    assert found[0] == found[1]
    assert found[0][0] == 2
    assert len(found[0][2]) == 4


def test_a_process_that_is_killed_is_told_of_and_the_scan_goes_on(tiny, tiny_bank: Path, tmp_path: Path, apart):
    write_rows(tmp_path / "d.jsonl", rows(150))
    args = scan_args(tiny, tiny_bank, "--shard-rows", 5, "--run", tmp_path / "run")
    apart(True)

    def kill() -> None:
        wait(lambda: list(tmp_path.glob("run/features/part-00001*")))
        os.kill(makers(os.getpid())[0], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    done = geofilter(*args, cwd=tmp_path)
    killer.join()
    assert (done.returncode, errors_of(done)) == (
        4,
        "the process that tokenises the rows was killed, as systems do when memory runs out; free memory, and the same "
        "geofilter scan goes on where it stopped",
    )
    assert 2 <= len(list(tmp_path.glob("run/features/*"))) < 30
    done = geofilter(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("run/features/*"))) == 30


def test_an_interrupt_ends_the_process_too_and_is_told_in_one_line(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", rows(600))
    args = scan_args(tiny, tiny_bank, "--shard-rows", 5, "--run", tmp_path / "run", "--quiet")
    code = (
        "import geofilter.scanning.scan as s; s.computes_on_gpu = lambda loading: True\n"
        "from geofilter.cli.process import run; run()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, args)], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    assert wait(lambda: list(tmp_path.glob("run/features/part-00002.safetensors")))
    (maker,) = makers(process.pid)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines() == ["geofilter: interrupted; the same command goes on where it stopped"]
    assert not Path(f"/proc/{maker}").exists()
    assert len(list(tmp_path.glob("run/features/*.safetensors"))) < 120


def test_the_process_ends_when_the_one_that_started_it_is_killed(tiny, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", rows(600))
    code = (
        "from pathlib import Path\nfrom geofilter.config import ScanConfig\n"
        "from geofilter.scanning.ahead import ahead\n"
        "from geofilter.scanning.plan import drafted\nfrom geofilter.scanning.ready import Job\n"
        "config = ScanConfig(('d.jsonl',), shard_rows=5)\ndraft = drafted(config)\n"
        "job = Job.of(config, draft.files, draft.write(Path()).path, [(0, 120)], 'f')\n"
        f"with ahead(job, Path({str(tiny[0])!r})) as shards:\n"
        "    next(shards(lambda: 400))\n    print(flush=True)\n    input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"\n"
    (maker,) = makers(process.pid)
    process.kill()
    process.communicate()
    assert wait(lambda: not Path(f"/proc/{maker}").exists(), 20)


def test_an_error_comes_behind_the_shards_before_it_wherever_they_are_made(tiny, tmp_path: Path):
    first = write_rows(tmp_path / "a.jsonl", [*rows(6), chat("q", "yes")])
    second = write_rows(tmp_path / "b.jsonl", rows(7))
    job = planned(tmp_path, ScanConfig((str(first), str(second)), shard_rows=7))
    second.unlink()
    tokenizer = tokenizer_of(tiny[0])
    size = max(tokenizer("the answer").input_ids)
    here, there = [], []
    with pytest.raises(InputError) as wanted:
        here.extend(prepared(job, lambda: tokenizer, lambda: size))
    with pytest.raises(InputError) as found, ahead(job, tiny[0]) as shards:
        there.extend(shards(lambda: size))
    assert str(found.value) == str(wanted.value)
    assert "b.jsonl" in str(found.value)
    assert len(here) == len(there) == 1
    assert there[0].encoded == here[0].encoded
    assert there[0].unusable == here[0].unusable
    assert [row.line for row in here[0].unusable] == list(range(1, 7))
    assert here[0].unusable[0].error.startswith(f"token {size} (")
    assert {name: column.tolist() for name, column in there[0].columns.items()} == {
        name: column.tolist() for name, column in here[0].columns.items()
    }


def test_an_error_that_is_not_foreseen_shows_where_it_came_from(tiny, tmp_path: Path):
    job = planned(tmp_path, ScanConfig((str(write_rows(tmp_path / "d.jsonl", rows(3))),)))
    job = replace(job, files=[{"path": "d.jsonl"}])
    with pytest.raises(RuntimeError, match=r"^KeyError: 'rows'$") as found, ahead(job, tiny[0]) as shards:
        list(shards(lambda: 400))
    assert "in prepared" in str(found.value.__cause__)


def test_a_folder_without_a_tokenizer_is_an_error_and_no_waiting(tmp_path: Path):
    job = Job.of(ScanConfig(), [], tmp_path, [], "f")
    with pytest.raises(Exception, match=r"config\.json"), ahead(job, tmp_path) as shards:
        list(shards(lambda: 400))


def test_what_makes_rows_ready_loads_no_torch():
    assert not loaded("import geofilter.scanning.ahead") & {"torch", "transformers"}


def test_a_writer_works_in_order_and_stops_at_what_fails():
    done: list[int] = []

    def work(i: int) -> None:
        if i == 3:
            raise InputError("the disk is full")
        done.append(i)

    with pytest.raises(InputError, match="the disk is full"), Writer() as write:
        for i in range(50):
            write(partial(work, i))
    assert done == [0, 1, 2]
    # The first error counts, but nothing hides an interrupt.
    for later, wanted in ((TypeError, InputError), (KeyboardInterrupt, KeyboardInterrupt)):
        with pytest.raises(wanted), Writer() as write:
            write(partial(work, 3))
            raise later


def test_a_writer_lets_little_wait_and_does_all_of_it():
    done: list[int] = []
    may_go_on = threading.Event()

    def work(i: int) -> None:
        may_go_on.wait(60)
        done.append(i)

    with Writer() as write:
        given = 0

        def give() -> None:
            nonlocal given
            for i in range(6):
                write(partial(work, i))
                given += 1

        giver = threading.Thread(target=give)
        giver.start()
        assert wait(lambda: given == 2)
        giver.join(0.2)
        assert given == 2  # one is begun, one waits
        may_go_on.set()
        giver.join()
    assert done == list(range(6))
