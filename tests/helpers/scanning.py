"""What the tests of scans share."""

from pathlib import Path

from helpers.command import Done, chat


def rows(n: int) -> list[dict]:
    return [chat(f"question {i}?", f"the answer is {i} " * (1 + i % 9)) for i in range(n)]


def scan_args(tiny, bank: Path, *extra: object) -> list[object]:
    return ["scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", bank, *extra]


def only_run(folder: Path) -> Path:
    (run,) = (folder / ".geofilter").iterdir()
    return run


def errors_of(done: Done) -> str:
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1].removeprefix("geofilter: error: ")
