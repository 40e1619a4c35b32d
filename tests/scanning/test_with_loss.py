"""A scan that stores the loss of its rows: the same features, by whatever process they are made."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.scanning import errors_of, rows, same_by_any_process, scan_args

from geofilter.run.store import Run


@pytest.fixture
def here(tiny, tiny_bank: Path, tmp_path: Path):
    long = chat("question?", "the answer is that you should ask the doctor " * 30)
    write_rows(tmp_path / "d.jsonl", [*rows(11), long, {"nothing": 1}, {"text": "the answer to the question"}])

    def call(run: str, *more: object):
        args = scan_args(tiny, tiny_bank, "--shard-rows", 5, "--max-tokens", 64, "--run", run, "--quiet", *more)
        return geofilter(*args, cwd=tmp_path)

    call.folder = tmp_path
    return call


def test_loss_is_stored_beside_the_same_features_by_any_process(here, monkeypatch):
    folder = here.folder
    assert here("plain").returncode == 0
    done = here("whole", "--with-loss")
    assert done.returncode == 0, done.stderr
    plain, whole = Run.open(folder / "plain"), Run.open(folder / "whole")
    assert "with_loss" not in plain.manifest["encoding"] and "loss" not in plain.arrays()
    for a, b in zip(plain.shards(), whole.shards(), strict=True):
        assert a.loss is None and b.loss.shape == (len(b.line), 2)
        np.testing.assert_array_equal(a.pooled.values, b.pooled.values)
    loss, lines = whole.arrays()["loss"], list(whole.scores())
    assert (loss > 0).all() and max(line["windows"] for line in lines) > 1
    for at, was, now in zip(loss.tolist(), plain.scores(), lines, strict=True):
        assert now.pop("loss") == {"with_prompt": round(at[0], 4), "without_prompt": round(at[1], 4)}
        assert was == now
    same_by_any_process(here, folder, monkeypatch, "--with-loss")


def test_another_bank_keeps_the_loss_and_another_configuration_is_another_run(here, tiny, tiny_bank: Path):
    assert here("run", "--with-loss").returncode == 0
    before = Run.open(here.folder / "run").arrays()["loss"]
    shutil.copytree(tiny_bank, here.folder / "copy")
    about = json.loads((here.folder / "copy" / "bank.json").read_text("utf-8"))
    (here.folder / "copy" / "bank.json").write_text(json.dumps({**about, "name": "copy"}), "utf-8")
    assert here("run", "--with-loss", "--bank", "copy").returncode == 0
    np.testing.assert_array_equal(Run.open(here.folder / "run").arrays()["loss"], before)
    refused = here("run")
    assert refused.returncode == 4 and "with_loss: true, now null" in errors_of(refused)
    refused = here("other", "--with-loss", "--max-memory", "12GB")
    assert refused.returncode == 2 and "--max-memory does not reckon with the whole model" in errors_of(refused)
