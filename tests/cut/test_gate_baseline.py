"""The gate beside an accepted earlier run: only rows that it does not have are counted."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.runs import write_manifest

from geofilter.arrays import KnownDigests
from geofilter.cut.gate import check
from geofilter.cut.gate_text import text
from geofilter.errors import InputError, RunError
from geofilter.run.store import Run


@pytest.fixture(scope="module")
def dropped(scanned: Path, tiny, tiny_bank: Path) -> Path:
    """A second drop: all rows of the first one, the one that could not be scored, another such, and five bad rows."""
    rows = [*(scanned / "b.jsonl").read_text("utf-8").splitlines(), '{"nothing": 2}']
    rows += (scanned / "a.jsonl").read_text("utf-8").splitlines()
    bad = [json.dumps(chat(f"new {i}", f"you utter fool, {i} times no", source="forum")) for i in range(5)]
    (scanned / "c.jsonl").write_text("\n".join([*rows, *bad]) + "\n", "utf-8")
    done = geofilter(
        "scan", "c.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--run", "second", "-q",
        cwd=scanned,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return scanned


def test_of_a_second_drop_only_the_five_new_rows_are_counted(dropped: Path, monkeypatch):
    monkeypatch.chdir(dropped)
    first, second = Run.open("run"), Run.open("second")
    threshold = float(second.arrays(["percentile"])["percentile"][-5:].min())
    verdict = check(second, threshold, "0", baseline=first, max_quarantined=1)
    assert verdict["baseline"] == {"run": "run", "known": 40, "new": 5, "known_quarantined": 1, "differs": []}
    assert [(p["name"], p["rows"], p["flagged"]) for p in verdict["parts"]] == [("new rows", 5, 5)]
    assert (verdict["quarantined"], len(verdict["reasons"])) == (1, 1)
    assert {row["line"] for row in verdict["highest"]} == {43, 44, 45, 46, 47}
    assert "; 40 rows known from run and not counted, whatever they score; 5 new rows; " in text(verdict)
    assert check(second, threshold, "4", max_quarantined=2)["parts"][0]["rows"] == 45
    by_source = check(second, threshold, "0", baseline=first, by="source")["parts"]
    assert [(p["name"], p["rows"]) for p in by_source] == [("new rows", 5), ("source = forum", 5)]
    assert not check(second, threshold, "0", baseline=first, by="source")["reasons"][-1].startswith("source")


def test_where_no_row_is_new_the_gate_passes_and_says_so(dropped: Path, monkeypatch):
    monkeypatch.chdir(dropped)
    verdict = check(Run.open("run"), 0.0, "0", baseline=Run.open("second"))
    assert verdict["passed"]
    assert [(p["name"], p["rows"], p["flagged"]) for p in verdict["parts"]] == [
        ("new rows", 0, 0), ("a.jsonl", 0, 0), ("b.jsonl", 0, 0),
    ]  # fmt: skip
    assert "no row is new, so there was nothing to judge" in text(verdict)
    with pytest.raises(InputError, match=r"--baseline .*: is the run itself, so no row is new; name an earlier one"):
        check(Run.open("run"), baseline=Run.open(Path("../").resolve() / dropped.name / "run"))


def test_a_row_that_could_not_be_scored_then_is_new(dropped: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(dropped)
    shutil.copytree("run", tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    raw = (dropped / "c.jsonl").read_text("utf-8").splitlines()[-1]
    write_rows(tmp_path / "run" / "quarantine.jsonl", [{"file": "b.jsonl", "line": 31, "error": "e", "raw": raw}])
    write_manifest(tmp_path / "run", manifest)
    found = check(Run.open("second"), baseline=Run.open(tmp_path / "run"))["baseline"]
    assert (found["new"], found["known_quarantined"]) == (5, 0)


def test_rows_that_were_not_read_whole_are_counted_among_the_new_ones(dropped: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(dropped)
    shutil.copytree("second", tmp_path / "second")
    path = tmp_path / "second" / "scores.jsonl"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    for i in (0, 1, 44):  # of the first drop, and of the second
        lines[i]["windows"] = 2
    write_rows(path, lines)
    manifest = json.loads((tmp_path / "second" / "manifest.json").read_text("utf-8"))
    manifest["counts"]["windowed"] = 3
    write_manifest(tmp_path / "second", manifest)
    changed = Run.open(tmp_path / "second")
    assert check(changed, baseline=Run.open("run"))["windowed"] == 1
    assert check(changed)["windowed"] == 3


def test_how_the_earlier_run_was_scanned_otherwise_is_said(dropped: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(dropped)
    shutil.copytree("run", tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    manifest |= {"scorer": "contrast", "target": {**manifest["target"], "fingerprint": "0"}}
    manifest["banks"][0]["files"] = {}
    manifest["encoding"]["train"] = "last"
    write_manifest(tmp_path / "run", manifest)
    verdict = check(Run.open("second"), baseline=Run.open(tmp_path / "run"))
    assert verdict["baseline"]["differs"] == [
        "another target or SAE", "other banks", "another scorer", "other text of the rows",
    ]  # fmt: skip
    assert verdict["baseline"]["known"] == 40
    assert "was scanned with another target or SAE, other banks, " in text(verdict)


def test_a_baseline_whose_rows_cannot_be_told_is_refused(dropped: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(dropped)
    shutil.copytree("run", tmp_path / "run")
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text("utf-8"))
    for record in ({}, {"sha256": "00"}, {"raw_base64": "?"}, {"raw": 3}):
        write_rows(tmp_path / "run" / "quarantine.jsonl", [record])
        write_manifest(tmp_path / "run", manifest)
        with pytest.raises(RunError, match=r"quarantine\.jsonl: is not what the scan wrote"):
            check(Run.open("second"), baseline=Run.open(tmp_path / "run"))
    (tmp_path / "run" / "scores.safetensors").write_bytes(b"")
    done = geofilter("gate", "second", "--baseline", tmp_path / "run", cwd=dropped)
    assert (done.returncode, "scores.safetensors: is not what the scan wrote" in done.stderr) == (4, True)


def test_the_command_takes_a_baseline_by_its_data_too(dropped: Path):
    done = geofilter("gate", "second", "--baseline", "run", "--max-flagged", "5", "--max-quarantined", "1", cwd=dropped)
    assert done.returncode == 0, done.stderr
    assert "40 rows known from run and not counted" in done.stderr
    assert geofilter("gate", "second", "--baseline", "nowhere", cwd=dropped).returncode == 4
    five = ("--baseline", "run", "--threshold", "0", "--max-quarantined", "1", "--json")
    for most, code in (("4", 1), ("5", 0)):
        done = geofilter("gate", "second", "--max-flagged", most, *five, cwd=dropped)
        verdict = json.loads(done.stdout)
        assert (done.returncode, verdict["quarantined"]) == (code, 1)
        assert [(p["rows"], p["flagged"], p["passed"]) for p in verdict["parts"]] == [(5, 5, not code)]


def test_digests_are_found_by_all_of_their_bytes():
    rng = np.random.default_rng(0)
    known = rng.integers(0, 256, (500, 32)).astype(np.uint8)
    known[::3, rng.integers(0, 32)] = 0
    known[::5, 30:] = 0
    known[7], known[8] = 0, 255
    asked = np.concatenate([known[::2], known[::7], rng.integers(0, 256, (100, 32)).astype(np.uint8)])
    asked[::4, rng.integers(0, 32, len(asked[::4]))] ^= 1
    asked[::9, 31] ^= 1
    listed = {row.tobytes() for row in known}
    wanted = [row.tobytes() in listed for row in asked]
    assert 50 < sum(wanted) < len(wanted) - 50
    assert KnownDigests(known).have(asked).tolist() == wanted
    assert KnownDigests(known[:0]).have(asked).tolist() == [False] * len(asked)
    assert KnownDigests(known).have(asked[:0]).tolist() == []
