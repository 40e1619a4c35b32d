"""`geofilter verify`: runs of every kind pass, and a flipped bit anywhere is named with its file and place."""

import json
from pathlib import Path

import pytest
from helpers.command import geofilter, write_rows
from helpers.scanning import errors_of, rows
from helpers.verifying import doubts, run_all
from safetensors import safe_open

from geofilter.files import write_json
from geofilter.sums import sealed


def test_a_good_run_passes_and_nothing_is_written(good: Path):
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in good.rglob("*") if p.is_file()}
    done = geofilter("verify", "run", "--json", "--deep", "3", cwd=good)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["verified"], said["doubts"]) == (True, [])
    assert len(said["checked"]) == 9
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in good.rglob("*") if p.is_file()} == before


def test_runs_of_other_kinds_pass(tiny, tiny_bank: Path, tmp_path: Path, monkeypatch):
    """Not cut; cut to another place by percentile; rows passed over, left out, too long, and that are no text."""
    for module in ("bounded", "records"):
        monkeypatch.setattr(f"geofilter.rows.{module}.MOST_BYTES", 3000)
    write_rows(tmp_path / "d.jsonl", [{**row, "use": i % 3 > 0} for i, row in enumerate(rows(12))])
    with (tmp_path / "d.jsonl").open("ab") as handle:
        handle.write(b'{"use": true, "text": "' + b"a" * 3000 + b'"}\n\xff\xfe\n')
    pair = ("--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "-q")
    run_all(tmp_path, ["scan", "d.jsonl", *pair, "--run", "a", "--only", "use=true", "--limit", "9"], ["verify", "a"])
    run_all(tmp_path, ["filter", "a", "--threshold", "0.5", "--out", "kept.jsonl", "-q"], ["verify", "a"])
    run_all(tmp_path, ["scan", "d.jsonl", *pair, "--run", "b"], ["verify", "b"])
    run_all(tmp_path, ["filter", "b", "--drop", "2", "-q"], ["verify", "b"])
    aside = [json.loads(line).keys() for line in (tmp_path / "b" / "quarantine.jsonl").read_bytes().splitlines()]
    assert ["sha256" in aside[0], "raw_base64" in aside[1]] == [True, True]


def flipped(path: Path, at: int, bit: int = 0) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1 << bit
    path.write_bytes(data)


def array_names(path: Path) -> list[str]:
    with safe_open(path, framework="numpy") as handle:
        return list(handle.keys())


def data_of(path: Path, name: str) -> int:
    """Where an array's bytes begin in a file; 0 where it has none."""
    head = int.from_bytes(path.read_bytes()[:8], "little")
    start, end = json.loads(path.read_bytes()[8 : 8 + head])[name]["data_offsets"]
    return 8 + head + start if end > start else 0


@pytest.mark.parametrize("name", ["features/part-00001.safetensors", "scores.safetensors", "labelled/bank.safetensors"])
def test_a_flipped_bit_of_any_array_is_named(copy: Path, name: str):
    path = copy / "run" / name
    whole = path.read_bytes()
    for array in array_names(path):
        if at := data_of(path, array):
            flipped(path, at)
            assert (f"run/{name}", array) in doubts(copy)
            path.write_bytes(whole)
    assert doubts(copy) == []


def place_of(text: bytes, what: bytes) -> int:
    return text.index(what) + len(what)


@pytest.mark.parametrize(
    ("name", "before", "place"),
    [
        ("run/manifest.json", b'"scorer": "', ""),
        ("run/scores.jsonl", b'"score": ', ""),
        ("run/quarantine.jsonl", b'"error": "', "line 1"),
        ("run/cut.json", b'"kind": "', ""),
        ("run/labels.jsonl", b'"label": "', "line 1"),
        ("run/labelled/bank.json", b'"description": "', "description"),
        ("run/report.html", b"<title>", "byte "),
        ("run/report.md", b"#", "byte 2"),
        ("d.report.json", b'"headline": "', "byte "),
        ("d.set.json", b'"run": "', ""),
        ("d.filtered.jsonl", b'"content": "', ""),
        ("d.removed.jsonl", b'"content": "', ""),
        ("e.filtered.parquet", b"PAR1", ""),
        ("d.quarantined.jsonl", b'"error": "', ""),
        ("d.jsonl", b'"content": "', "line 1"),
    ],
)
def test_a_flipped_bit_of_any_file_is_named(copy: Path, name: str, before: bytes, place: str):
    path = copy / name
    flipped(path, place_of(path.read_bytes(), before))
    found = doubts(copy)
    assert any(file == name and at.startswith(place) for file, at in found), found
    done = geofilter("verify", "run", cwd=copy)
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    assert name.rpartition("/")[2] in done.stderr


def test_rows_in_another_place_are_named_with_their_row(copy: Path):
    """Though every hash fits: what is in the files is held against the cut."""
    kept = (copy / "d.filtered.jsonl").read_bytes().splitlines(keepends=True)
    of = json.loads((copy / "d.set.json").read_bytes())
    (copy / "d.filtered.jsonl").write_bytes(b"".join([*kept[:3], *kept[4:]]))
    from geofilter.sums import sum_of

    of["files"]["d.filtered.jsonl"] = sum_of(copy / "d.filtered.jsonl")
    write_json(copy / "d.set.json", sealed(of))
    assert ("d.filtered.jsonl", "row 4") in doubts(copy)


def test_a_file_that_belongs_to_nothing_and_one_that_lacks_are_named(copy: Path):
    (copy / "run" / "features" / "part-00009.safetensors").write_bytes(b"x")
    (copy / "e.removed.jsonl").unlink()
    found = doubts(copy)
    assert ("run/features/part-00009.safetensors", "") in found
    assert ("e.removed.jsonl", "") in found


def test_what_was_cut_before_the_run_was_scored_anew_is_in_doubt(copy: Path):
    run_all(copy, ["filter", "run", "--drop", "40%", "-q"])
    assert doubts(copy) == []
    labels = [json.loads(x) for x in (copy / "run" / "labels.jsonl").read_bytes().splitlines()]
    write_rows(copy / "others.jsonl", [{"sha256": x["sha256"], "label": "good"} for x in labels[:3]])
    run_all(copy, ["label", "run", "--from", "others.jsonl", "-q"])
    assert ("run/cut.json", "scores") in doubts(copy)


def test_a_target_that_is_gone_cannot_be_vouched_for(copy: Path):
    manifest = json.loads((copy / "run" / "manifest.json").read_bytes())
    manifest["target"]["choice"]["model"] = str(copy / "gone")
    write_json(copy / "run" / "manifest.json", sealed(manifest))
    done = geofilter("verify", "run", cwd=copy)
    assert done.returncode == 4
    assert "model or SAE cannot be checked" in done.stderr
    assert errors_of(done) == "run: 1 doubt; what is in doubt is named above"
    assert geofilter("verify", "run", "--no-target", cwd=copy).returncode == 0
