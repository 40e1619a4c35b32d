"""`geofilter verify`: runs of every kind pass, and a flipped bit anywhere is named with its file and place."""

import json
import os
import shutil
from contextlib import chdir
from pathlib import Path

import pytest
from helpers.command import geofilter, write_rows
from helpers.scanning import errors_of, rows
from helpers.verifying import doubts, run_all
from safetensors import safe_open

from geofilter.cut.outputs import Following
from geofilter.files import write_json
from geofilter.run.store import Run
from geofilter.sums import sealed, sum_of
from geofilter.verify.findings import Findings
from geofilter.verify.inputs import check_input


def test_a_good_run_passes_and_nothing_is_written(good_parquet: Path):
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in good_parquet.rglob("*") if p.is_file()}
    done = geofilter("verify", "run", "--json", "--deep", "3", cwd=good_parquet)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert (said["verified"], said["doubts"]) == (True, [])
    assert len(said["checked"]) == 9
    assert {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in good_parquet.rglob("*") if p.is_file()} == before


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


@pytest.mark.parametrize(
    "name",
    ["features/part-00001.safetensors", "scores.safetensors", "vectors.safetensors", "labelled/bank.safetensors"],
)
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
        ("run/scores.jsonl", b'"score": ', "line 1"),
        ("run/quarantine.jsonl", b'"error": "', "line 1"),
        ("run/cut.json", b'"kind": "', ""),
        ("run/labels.jsonl", b'"label": "', "line 1"),
        ("run/labelled/bank.json", b'"description": "', "description"),
        ("run/report.html", b"<title>", "byte "),
        ("run/report.md", b"#", "byte 2"),
        ("d.report.json", b'"headline": "', "byte "),
        ("d.set.json", b'"run": "', ""),
        ("d.filtered.jsonl", b'"content": "', ""),
        ("d.removed.jsonl", b'"content": "', "row 1"),
        ("d.quarantined.jsonl", b'"error": "', ""),
        ("d.jsonl", b'"content": "', "line 1"),
    ],
)
def test_a_flipped_bit_of_any_file_is_named(copy: Path, name: str, before: bytes, place: str):
    check_flipped(copy, name, before, place)


def test_a_flipped_bit_of_a_parquet_file_is_named(copy_parquet: Path):
    check_flipped(copy_parquet, "e.filtered.parquet", b"PAR1", "")


def check_flipped(copy: Path, name: str, before: bytes, place: str) -> None:
    path = copy / name
    flipped(path, place_of(path.read_bytes(), before))
    found = doubts(copy)
    assert any(file == name and at.startswith(place) for file, at in found), found
    done = geofilter("verify", "run", "--json", cwd=copy)
    assert done.returncode == 4
    assert "Traceback" not in done.stderr
    assert name.rpartition("/")[2] in done.stderr
    assert json.loads(done.stdout)["verified"] is False


def test_rows_in_another_place_are_named_with_their_row(copy: Path):
    """Though every hash fits: what is in the files is held against the cut."""
    kept = (copy / "d.filtered.jsonl").read_bytes().splitlines(keepends=True)
    of = json.loads((copy / "d.set.json").read_bytes())
    (copy / "d.filtered.jsonl").write_bytes(b"".join([*kept[:3], *kept[4:]]))
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


def forged(path: Path, **fields: object) -> None:
    """A sealed file of ours with other fields, whose hashes fit."""
    of = {**json.loads(path.read_bytes()), **fields}
    write_json(path, sealed({name: value for name, value in of.items() if value is not ...}))


@pytest.mark.parametrize("name", ["top_features", "explained", "topics", "banks", "windows"])
def test_a_line_of_the_scores_says_what_its_features_give(copy: Path, name: str):
    """Whether its hash fits or not."""
    path = copy / "run" / "scores.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    line = json.loads(lines[3])
    other = {"top_features": line["top_features"][1:], "topics": {"x": 1.0}, "banks": {}, "windows": 7}
    other["explained"] = line["explained"] + 0.001
    lines[3] = json.dumps({**line, name: other[name]}).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    assert ("run/scores.jsonl", "line 4") in doubts(copy)
    manifest = json.loads((copy / "run" / "manifest.json").read_bytes())
    forged(copy / "run" / "manifest.json", files={**manifest["files"], "scores.jsonl": sum_of(path)})
    assert doubts(copy)[0] == ("run/scores.jsonl", "line 4")


def test_a_note_on_a_removed_row_is_the_cut_s(copy: Path):
    path = copy / "d.removed.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"rank": ', b'"rank": 9', 1))
    files = json.loads((copy / "d.set.json").read_bytes())["files"]
    forged(copy / "d.set.json", files={**files, path.name: sum_of(path)})
    assert doubts(copy) == [("d.removed.jsonl", "row 1")]


def test_a_row_that_was_lost_is_not_taken_for_one_that_was_passed_over(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", [{**row, "use": i % 2 > 0} for i, row in enumerate(rows(6))])
    pair = ("--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "-q")
    run_all(tmp_path, ["scan", "d.jsonl", *pair, "--run", "run", "--only", "use=true"])
    run = Run(tmp_path / "run")
    info, found = run.manifest["data"][0], Findings()
    hashes = {2: run.arrays(["sha256"])["sha256"][0].tobytes().hex()}  # of lines 2, 4 and 6
    with chdir(tmp_path):
        check_input(info, hashes, Following(iter(())), run.reading, found)
    assert [(d["place"], d["text"]) for d in found.doubts] == [
        ("line 4", "is neither scored nor quarantined"),
        ("line 6", "is neither scored nor quarantined"),
    ]


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("d.set.json", {"files": {}}),
        ("d.set.json", {"counts": None}),
        ("d.set.json", {"input": ...}),
        ("run/cut.json", {"sets": []}),
        ("run/cut.json", {"whole": ...}),
        ("run/manifest.json", {"power": ...}),
        ("run/manifest.json", {"data": {}}),
        ("run/manifest.json", {"complete": ...}),
    ],
)
def test_what_was_forged_with_its_hashes_is_a_doubt_and_no_failure(copy: Path, name: str, fields: dict):
    forged(copy / name, **fields)
    done = geofilter("verify", "run", cwd=copy)
    assert (done.returncode, name in done.stderr) == (4, True), done.stderr


def test_a_set_in_the_place_of_another_input_s_is_told(copy: Path):
    shutil.copy(copy / "e.set.json", copy / "d.set.json")
    assert doubts(copy) == [("d.set.json", "")]
    assert "d.set.json: is of another cut now, or of another input" in geofilter("report", "run", cwd=copy).stderr


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda p: p.symlink_to(p.name)])
@pytest.mark.parametrize(
    "name", ["d.set.json", "run/cut.json", "run/scores.jsonl", "run/quarantine.jsonl", "run/labels.jsonl"]
)
def test_what_never_ends_is_not_read(copy: Path, name: str, make):
    (copy / name).unlink()
    make(copy / name)
    assert any(Path(file).name == Path(name).name for file, _ in doubts(copy))
