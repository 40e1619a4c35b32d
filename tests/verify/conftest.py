"""A run of every part, to be held against what it says."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import workers
from helpers.command import chat, write_rows
from helpers.labelling import BAD, N, answer
from helpers.verifying import run_all


def whole_run(folder: Path, pair: tuple[object, ...], other: str) -> None:
    """A run of two inputs, d.jsonl and `other`, which is labelled, scored by the labels, and cut."""
    kinds = ["bad" if bad else "good" for bad in BAD]
    write_rows(folder / "d.jsonl", [chat(f"question {i}?", answer(i), kind=kinds[i]) for i in range(N)])
    with (folder / "d.jsonl").open("a") as handle:
        handle.write('{"broken": \n')
    others = [chat(f"other {i}?", f"you fool {i}", kind="bad") for i in range(8)]
    if other.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(others), folder / other)
    else:
        write_rows(folder / other, others)
    run_all(
        folder,
        ["scan", "d.jsonl", other, *pair, "--run", "run", "--shard-rows", "30", "-q"],
        ["label", "run", "--from", "kind=bad", "-q"],
        ["verify", "run"],
        ["filter", "run", "--drop", "25%", "-q"],
    )
    assert "scanned_banks" in json.loads((folder / "run" / "manifest.json").read_bytes())


@pytest.fixture(scope="session")
def pair(tiny, tiny_bank: Path) -> tuple[object, ...]:
    return ("--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank)


@pytest.fixture(scope="session")
def good(pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of lines, see `whole_run`."""
    return workers.shared(tmp_path_factory, "verify", lambda folder: whole_run(folder, pair, "e.jsonl"))


@pytest.fixture(scope="session")
def good_parquet(pair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One of lines and Parquet, which takes a process of its own each time that it is read."""
    return workers.shared(tmp_path_factory, "verify-parquet", lambda folder: whole_run(folder, pair, "e.parquet"))


@pytest.fixture
def copy(good: Path, tmp_path: Path, monkeypatch) -> Path:
    shutil.copytree(good, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def copy_parquet(good_parquet: Path, tmp_path: Path, monkeypatch) -> Path:
    shutil.copytree(good_parquet, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"
