"""What the tests of scans share."""

from pathlib import Path

from geofilter.config import ScanConfig
from geofilter.scanning.plan import drafted
from geofilter.scanning.ready import Job
from helpers.command import Done, chat


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
