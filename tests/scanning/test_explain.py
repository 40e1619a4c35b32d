import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.command import geofilter, write_rows
from helpers.scanning import errors_of, rows, scan_args

from geofilter.bank.bank import Bank
from geofilter.rows.records import parse_line


def test_explain_reads_the_bank_of_the_scan_s_dtype(tiny, tmp_path: Path, monkeypatch, short_background):
    """`auto` may be another dtype where the run is explained: the cache must not get a bank under a wrong name."""
    from geofilter.build import banks as building
    from geofilter.encode import model

    few = [seed for i, seed in enumerate(building.built_in_seeds("toxic-text")) if i // 2 % 16 == 0]
    monkeypatch.setattr(building, "built_in_seeds", lambda name: few)  # it is built twice
    monkeypatch.setenv("GEOFILTER_CACHE", str(tmp_path / "cache"))
    write_rows(tmp_path / "d.jsonl", rows(3))
    args = ("--model", tiny[0], "--sae", tiny[1], "--bank", "toxic-text", "--run", tmp_path / "run", "-q")
    with monkeypatch.context() as gpu:  # what `auto` is on a GPU
        choose = model.choose_dtype
        gpu.setattr(model, "choose_dtype", lambda name, device: choose("bfloat16" if name == "auto" else name, device))
        assert geofilter("scan", "d.jsonl", *args, cwd=tmp_path).returncode == 0
    banks = tmp_path / "cache" / "banks"
    assert [folder.name.rpartition("-")[2] for folder in banks.iterdir()] == ["bfloat16"]
    before = {path: path.read_bytes() for path in banks.rglob("*.safetensors")}
    shutil.rmtree(banks)
    done = geofilter("explain", tmp_path / "run", "--row", 2, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path: path.read_bytes() for path in banks.rglob("*.safetensors")} == before


def test_explain_sums_to_the_stored_score(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", [*rows(5), {"x": 1}])
    tiny_copy = shutil.copytree(tiny[0], tmp_path / "model")
    assert geofilter(*scan_args((tiny_copy, tiny[1]), tiny_bank), cwd=tmp_path).returncode == 0
    done = geofilter("explain", "--row", 3, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["line"] == 3
    total = sum(f["share"] for f in found["features"]) + found["common"]
    total += found["other_active_features"] + found["silent_features"]
    assert total == pytest.approx(found["score"], abs=1e-4)
    for f in found["features"]:
        assert f["score_without"] == pytest.approx(found["score"] - f["share"], abs=1e-4)
    tokens = sum(t["share"] for t in found["tokens"])
    assert tokens == pytest.approx(found["score"] - found["silent_features"], abs=1e-4)
    whole = geofilter("explain", "--row", 3, "--verbose", cwd=tmp_path)
    assert "score without" in whole.stdout
    assert "strongest tokens: " in whole.stdout
    shutil.rmtree(tiny_copy)  # no model is needed for the rest
    done = geofilter("explain", "--row", 3, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("d.jsonl, line 3: rank ")
    row = parse_line((tmp_path / "d.jsonl").read_bytes().splitlines(keepends=True)[2], "d.jsonl", 3)
    assert row.prompt in lines
    assert row.response in done.stdout.replace("[", "").replace("]", "")
    assert "Scores above " in done.stdout
    assert whole.stdout.startswith(done.stdout)
    for row, error in [(6, "d.jsonl, line 6: not scored: no known fields;"), (99, "--row 99: no such row in the run")]:
        done = geofilter("explain", "--row", row, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(f"geofilter: error: {error}")


def test_explain_does_not_explain_another_bank(tiny, tiny_bank: Path, tmp_path: Path):
    shutil.copytree(tiny_bank, tmp_path / "b")
    write_rows(tmp_path / "d.jsonl", rows(5))
    assert geofilter(*scan_args(tiny, tmp_path / "b"), cwd=tmp_path).returncode == 0
    again = Bank.load(tmp_path / "b")
    Bank.save(replace(again, toxic=again.toxic[:-1]), tmp_path / "b")  # built again since
    done = geofilter("explain", "--row", 3, cwd=tmp_path)
    assert (done.returncode, errors_of(done)) == (4, f"{tmp_path}/b: the bank has changed since the scan; scan again")
