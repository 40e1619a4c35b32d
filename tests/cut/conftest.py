"""A scanned data drop, for the tests of the gate."""

from pathlib import Path

import numpy as np
import pytest
from helpers.command import chat, geofilter, write_rows

from geofilter.errors import RunError
from geofilter.run.column import Source, columns_of
from geofilter.run.store import Run
from geofilter.run.tensors import packed


@pytest.fixture(scope="session")
def scanned(tiny, tiny_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two files of ten and thirty rows in one run, every row with a source; a third row cannot be scored."""
    folder = tmp_path_factory.mktemp("gate")
    write_rows(folder / "a.jsonl", [chat(f"q {i}", f"answer {i}", source="web") for i in range(10)])
    sources = ["web", "<b>|x", None]
    rows = [chat(f"p {i}", f"you fool, {i} no", **({"source": s} if (s := sources[i % 3]) else {})) for i in range(30)]
    write_rows(folder / "b.jsonl", [*rows, {"nothing": 1}])
    done = geofilter(
        "scan", "a.jsonl", "b.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "run", "-q",
        cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def run(scanned: Path, tmp_path: Path, monkeypatch) -> Run:
    """The run, its percentiles replaced: eight of the forty scored rows are at 0.995, one of them in a.jsonl."""
    monkeypatch.chdir(scanned)
    opened = Run.open(Path("run"))
    percentile = np.full(40, 0.5)
    percentile[[0, *range(10, 17)]] = 0.995
    path = tmp_path / "percentile.safetensors"
    path.write_bytes(packed({"percentile": percentile}, {}))
    source = Source(path, (path.stat().st_size, path.stat().st_mtime_ns), RunError)
    columns = {**opened.columns(), **columns_of(source)[0]}
    monkeypatch.setattr(Run, "columns", lambda self, names=None: {name: columns[name] for name in names or columns})
    return opened
