import shutil
from pathlib import Path

import pytest
from helpers import faults
from helpers.command import chat, geofilter, write_rows
from helpers.labelling import BAD, answer


def data() -> list[dict]:
    """Rows for three shards of four, with one that cannot be scored."""
    rows = [chat(f"question {i}?", answer(i) * (1 + i % 4), kind="bad" if BAD[i] else "good") for i in range(9)]
    return [*rows[:5], {"nothing": 1}, *rows[5:]]


def scan(tiny, bank: Path, run: str = "run") -> list[object]:
    return ["scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", bank, "--run", run, "--shard-rows", 4]


@pytest.fixture(autouse=True)
def _still(monkeypatch) -> None:
    faults.still(monkeypatch)


@pytest.fixture
def scan_args(tiny, tiny_bank: Path) -> list[object]:
    """The scan of `folder`."""
    return scan(tiny, tiny_bank)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with d.jsonl, see `data`."""
    (tmp_path / "work").mkdir()
    write_rows(tmp_path / "work" / "d.jsonl", data())
    return tmp_path / "work"


@pytest.fixture(scope="session")
def _cut(tiny, tiny_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults") / "work"
    folder.mkdir()
    write_rows(folder / "d.jsonl", data())
    for args in (scan(tiny, tiny_bank), ["filter", "run", "--drop", "10%"]):
        done = geofilter(*args, cwd=folder)
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def cut(_cut: Path, tmp_path: Path) -> Path:
    """A folder with d.jsonl, its run, and a cut of 10 %."""
    shutil.copytree(_cut, tmp_path / "work")
    return tmp_path / "work"
