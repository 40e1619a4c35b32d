"""What the tests of scans share."""

from collections.abc import Callable
from contextlib import chdir
from pathlib import Path

from geofilter.config import ScanConfig
from geofilter.scanning.plan import Plan, drafted
from geofilter.scanning.ready import Job
from geofilter.scanning.worker import Worker
from helpers.command import Done, chat, geofilter


def rows(n: int) -> list[dict]:
    return [chat(f"question {i}?", f"the answer is {i} " * (1 + i % 9)) for i in range(n)]


def scan_args(tiny, bank: Path, *extra: object) -> list[object]:
    return ["scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", bank, *extra]


def planned(folder: Path, config: ScanConfig) -> Job:
    """All shards of some inputs, their plan in a folder."""
    draft = drafted(config)
    plan = draft.write(folder)
    return Job.of(config, draft.files, plan.path, [(0, plan.n_shards)], "f")


def only_run(folder: Path) -> Path:
    (run,) = (folder / ".geofilter").iterdir()
    return run


def errors_of(done: Done) -> str:
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1].removeprefix("geofilter: error: ")


def written(run: Path) -> dict[str, bytes]:
    """A run's shards and scores."""
    return {file.name: file.read_bytes() for file in (*run.glob("features/*"), *run.glob("scores*"))}


def same_by_any_process(call: Callable[..., Done], folder: Path, monkeypatch, *options: str) -> None:
    """Check that a run `whole` is made again, byte for byte, whatever processes make it.

    Args:
        call: scans into a run with options.
        options: that the run was made with.
    """
    assert geofilter("verify", "whole", cwd=folder).returncode == 0
    # In parts: this process, then what a Ray worker does, then merging.
    assert call("parts", *options, "--shard", "1/3").returncode == 0
    plan = Plan(folder / "parts" / "plan.jsonl")
    with chdir(Path.cwd()):  # a worker goes to the scan's folder
        for number in range(1, plan.n_shards):
            assert "error" not in Worker(str(folder / "parts"), 1).made(plan[number])
    assert geofilter("merge", "parts", cwd=folder).returncode == 0
    assert written(folder / "parts") == written(folder / "whole")
    # For a GPU rows are made ready in a process of its own.
    monkeypatch.setattr("geofilter.scanning.scan.computes_on_gpu", lambda _: True)
    assert call("apart", *options).returncode == 0
    assert written(folder / "apart") == written(folder / "whole")
