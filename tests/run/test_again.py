"""A run scored again under some of its banks, for `filter --bank`."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers.command import geofilter, write_rows
from helpers.scanning import rows, scan_args

from geofilter.bank.bank import Bank
from geofilter.errors import RunError
from geofilter.run import again
from geofilter.run.store import Run


@pytest.fixture(scope="module")
def scanned(tiny, tiny_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of 20 rows under the banks tiny-bank and other."""
    folder = tmp_path_factory.mktemp("again")
    bank = Bank.load(tiny_bank)
    replace(bank, name="other", weights=np.roll(bank.weights, 3)).save(folder / "other")
    write_rows(folder / "d.jsonl", rows(20))
    done = geofilter(*scan_args(tiny, tiny_bank, "--bank", folder / "other", "--run", "run"), cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def folder(scanned: Path, tmp_path: Path) -> Path:
    shutil.copytree(scanned / "run", tmp_path / "run")
    shutil.copy(scanned / "d.jsonl", tmp_path)
    return tmp_path


def test_a_cut_by_one_bank_is_that_of_a_scan_with_it_alone(tiny, scanned: Path, folder: Path):
    before = (folder / "run" / "scores.jsonl").read_bytes()
    done = geofilter("filter", "run", "--bank", "other", "--drop", "5", cwd=folder)
    assert done.returncode == 0, done.stderr
    alone = geofilter(*scan_args(tiny, scanned / "other", "--run", "alone"), cwd=folder)
    assert alone.returncode == 0, alone.stderr
    assert (folder / "run" / "scores.jsonl").read_bytes() == (folder / "alone" / "scores.jsonl").read_bytes()
    removed = [json.loads(line)["geofilter"] for line in (folder / "d.removed.jsonl").read_text().splitlines()]
    assert {note["bank"] for note in removed} == {"other"}
    report = json.loads((folder / "d.report.json").read_text())
    assert [verdict["bank"] for verdict in report["power"]] == ["other"]
    # Both named, it is the scan's again.
    done = geofilter("filter", "run", "--bank", "other", "--bank", "tiny-bank", "--drop", "5", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert (folder / "run" / "scores.jsonl").read_bytes() == before
    assert geofilter("verify", "run", cwd=folder).returncode == 0


def test_a_bank_that_the_scan_had_not_is_refused(folder: Path):
    done = geofilter("filter", "run", "--bank", "othr", "--drop", "5", cwd=folder)
    assert done.returncode == 2
    said = " ".join(done.stderr.split())
    assert "--bank othr: the run was scanned with tiny-bank, other; did you mean other?" in said
    assert Run(folder / "run").manifest["complete"]


def test_a_run_is_not_scored_under_the_banks_that_it_was_scored_under(folder: Path):
    run = Run.open(folder / "run")
    assert not again.score_under(run, ["other", "tiny-bank"])
    assert again.score_under(run, ["other"])
    assert not again.score_under(run, ["other"])


def test_a_run_that_was_stopped_meanwhile_says_how_to_go_on(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    run = Run.open(folder / "run")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(again, "score", stopped)
        again.score_under(run, ["other"])
    with pytest.raises(RunError, match=r"geofilter filter .*/run --bank tiny-bank --bank other"):
        Run.open(folder / "run")
    done = geofilter("filter", "run", "--bank", "other", "--drop", "5", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert [bank["name"] for bank in Run.open(folder / "run").manifest["banks"]] == ["other"]
