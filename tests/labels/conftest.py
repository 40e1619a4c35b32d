import shutil
from pathlib import Path

import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.labelling import BAD, N, answer


@pytest.fixture(scope="session")
def scanned(tiny, tiny_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with d.jsonl and its run; the last row repeats the bytes of the first."""
    folder = tmp_path_factory.mktemp("label")
    rows = [chat(f"question {i}?", answer(i), kind="bad" if BAD[i] else "good") for i in range(N)]
    write_rows(folder / "d.jsonl", [*rows, rows[0]])
    done = geofilter(
        "scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "run", "-q", cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def base(scanned: Path, tmp_path: Path) -> Path:
    """A copy of it, at the same place as seen from inside."""
    shutil.copytree(scanned, tmp_path / "base")
    return tmp_path / "base"
