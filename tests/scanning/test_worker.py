"""A worker makes shards alone, and says what went wrong; who starts it decides what that means."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers.command import geofilter, write_rows
from helpers.scanning import rows, scan_args

from geofilter.config import Loading, ScanConfig, TargetChoice
from geofilter.errors import InputError, RunError, TargetError
from geofilter.files import json_text
from geofilter.run.store import Run
from geofilter.scanning.on_ray import _waves, cpus_of
from geofilter.scanning.order import Order, config_of, hash_of
from geofilter.scanning.plan import Plan
from geofilter.scanning.wire import error_of
from geofilter.scanning.worker import TRIES, Worker, told

OPTIONS = ("--shard-rows", 5, "--exclude-feature", "7", "--exclude-feature", "toxic-text:3")


@pytest.fixture
def run(tiny, tiny_bank: Path, tmp_path: Path) -> Iterator[Path]:
    """A run of five shards that has begun, and has the first one."""
    write_rows(tmp_path / "d.jsonl", [*rows(23), {"nothing": 1}])
    args = scan_args(tiny, tiny_bank, *OPTIONS, "--run", "run", "--shard", "1/5")
    done = geofilter(*args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    here = Path.cwd()
    yield tmp_path / "run"
    os.chdir(here)


def test_workers_make_what_one_process_makes(tiny, tiny_bank: Path, run: Path):
    plan, worker = Plan(run / "plan.jsonl"), Worker(str(run), 1)
    here = run / "features" / "part-00000.safetensors"
    then = here.stat().st_mtime_ns
    answers = [json.loads(json_text(worker.made(plan[number]))) for number in (3, 0, 4, 2)]
    answers.append(Worker(str(run)).made(plan[1]))
    assert [answer["number"] for answer in answers] == [3, 0, 4, 2, 1]
    assert [answer["lines"] for answer in answers] == [5, 5, 4, 5, 5]
    assert [answer["tokens"] > 0 for answer in answers] == [True, False, True, True, True]
    assert here.stat().st_mtime_ns == then
    assert not list(run.glob("work/attempts/*/*"))
    assert geofilter("merge", run).returncode == 0
    whole = scan_args(tiny, tiny_bank, *OPTIONS, "--run", "one")
    assert geofilter(*whole, cwd=run.parent).returncode == 0
    for name in ("scores.jsonl", "scores.safetensors", "quarantine.jsonl", "features/part-00004.safetensors"):
        assert (run / name).read_bytes() == (run.parent / "one" / name).read_bytes()


def test_a_shard_that_was_begun_again_and_again_is_not_begun_once_more(run: Path):
    plan, worker = Plan(run / "plan.jsonl"), Worker(str(run))
    marks = run / "work" / "attempts" / "2"
    marks.mkdir()
    for number in range(TRIES - 1):
        (marks / f"host-1-{number}").touch()
    assert worker.made(plan[2])["lines"] == 5
    (marks / "host-2-3").touch()
    said = worker.made(plan[2])
    assert said == {"number": 2, "died": TRIES}
    assert told(said, plan[2], ["d.jsonl"]) == (
        "d.jsonl, line 11: the worker died 3 times on the 5 rows from here on (shard 2)"
    )


def answer_of(run: Path, number: int = 1) -> Exception:
    return error_of(Worker(str(run)).made(Plan(run / "plan.jsonl")[number]))


def test_what_goes_wrong_comes_back_as_the_error_that_it_is(run: Path, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr("geofilter.scanning.worker.resolved_dtype", lambda loading: "bfloat16")
        assert isinstance(error := answer_of(run), TargetError)
        assert "would read the model on cpu in bfloat16, but the scan was begun on cpu in float32" in str(error)
    (run.parent / "d.jsonl").rename(run.parent / "e.jsonl")
    assert isinstance(error := answer_of(run), InputError)
    assert str(error).startswith("d.jsonl: no such file")
    assert not list(run.glob("work/attempts/*/*"))
    (bank,) = run.glob("work/banks/*")
    assert hash_of(bank) == bank.name
    (bank / "bank.json").write_text((bank / "bank.json").read_text() + " ")
    assert isinstance(error := answer_of(run), RunError)
    assert str(error).endswith("is not the bank that was put there; start the scan again")
    order = json.loads((run / "work" / "order.json").read_text())
    (run / "work" / "order.json").write_text(json.dumps({**order, "here": "/nowhere"}))
    assert str(answer_of(run)).endswith("(not what was written); start the scan again")


def test_a_folder_that_is_not_here_is_told_of(run: Path):
    order = Order.read(Run(run))
    (run.parent / "gone").mkdir()
    os.chdir(run.parent / "gone")
    Order.of(order.config, Run(run).manifest, order.open_banks(Run(run)), offline=True).write(
        Run(run), order.open_banks(Run(run))
    )
    (run.parent / "gone").rmdir()
    os.chdir(run.parent)
    assert "workers need the data, the run and the model at the same paths" in str(answer_of(run))


def test_a_configuration_comes_out_equal():
    config = ScanConfig(
        ("a", "b"), TargetChoice("m", "s", layer=3), Loading("cpu", max_memory="8GB"), ("toxic-text",), "contrast",
        ("3",), only=("a=b",), limit=4, fields={"prompt": "q", "response": "a"}, origins={"a": {"id": "x/y"}},
        typed=("scorer",),
    )  # fmt: skip
    for one in (config, ScanConfig()):
        order = Order(one, True, "h", "f", "cpu", "float32", [], [])
        assert config_of(json.loads(json_text(order.said()))["config"]) == one


def test_workers_share_the_cpus_of_the_machines_they_are_on():
    for workers, nodes, on_gpu, wanted in (
        (2, [(2, 0)], False, 1), (1, [(2, 0)], False, 2), (2, [(8, 0)] * 4, False, 8), (5, [(8, 0), (4, 0)], False, 2),
        (8, [(64, 8)], True, 8), (3, [(16, 2), (4, 1), (64, 0)], True, 4),
    ):  # fmt: skip
        assert cpus_of(workers, nodes, on_gpu=on_gpu) == wanted
    for workers, nodes, on_gpu, room in ((3, [(2, 0)], False, 2), (2, [(8, 1), (8, 0)], True, 1), (1, [], True, 0)):
        with pytest.raises(InputError, match=f"and the cluster has room for {room}; give fewer"):
            cpus_of(workers, nodes, on_gpu=on_gpu)
    with pytest.raises(InputError, match="--workers 0: a worker takes a GPU and a CPU"):
        cpus_of(0, [(8, 0)], on_gpu=True)


def test_waves_hold_every_shard_once_and_no_more_than_they_may():
    todo = [(0, 3), (5, 6), (8, 30), (31, 32)]
    found = list(_waves(todo, 4))
    assert [n for wave in found for start, stop in wave for n in range(start, stop)] == [
        n for start, stop in todo for n in range(start, stop)
    ]
    assert [sum(stop - start for start, stop in wave) for wave in found] == [4] * 6 + [3]
    assert list(_waves([], 4)) == []
