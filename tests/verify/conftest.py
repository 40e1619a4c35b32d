"""A run of every part, to be held against what it says."""

import json
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.command import chat, write_rows
from helpers.labelling import BAD, N, answer
from helpers.verifying import run_all


@pytest.fixture(scope="module")
def good(tiny, tiny_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of two inputs, one of them Parquet, which is labelled, scored by the labels, and cut."""
    folder = tmp_path_factory.mktemp("verify")
    kinds = ["bad" if bad else "good" for bad in BAD]
    write_rows(folder / "d.jsonl", [chat(f"question {i}?", answer(i), kind=kinds[i]) for i in range(N)])
    with (folder / "d.jsonl").open("a") as handle:
        handle.write('{"broken": \n')
    table = pa.Table.from_pylist([chat(f"other {i}?", f"you fool {i}", kind="bad") for i in range(8)])
    pq.write_table(table, folder / "e.parquet")
    pair = ("--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank)
    run_all(
        folder,
        ["scan", "d.jsonl", "e.parquet", *pair, "--run", "run", "--shard-rows", "30", "-q"],
        ["label", "run", "--from", "kind=bad", "-q"],
        ["verify", "run"],
        ["filter", "run", "--drop", "25%", "-q"],
    )
    assert "scanned_banks" in json.loads((folder / "run" / "manifest.json").read_bytes())
    return folder


@pytest.fixture
def copy(good: Path, tmp_path: Path, monkeypatch) -> Path:
    shutil.copytree(good, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"
