import gzip
import json
import os
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.shell import shell

from geofilter.cut.cut import Cut
from geofilter.errors import InputError
from geofilter.rows.packing import ENDINGS, packing, split_name, unpacked


@pytest.mark.parametrize(
    ("text", "keep", "cut"),
    [
        ("10%", False, Cut("fraction", 0.1)),
        ("0%", False, Cut("fraction", 0.0)),
        ("2.5%", False, Cut("fraction", 0.025)),
        ("500", False, Cut("count", 500)),
        ("75%", True, Cut("fraction", 0.25)),
        ("100%", False, Cut("fraction", 1.0)),
        ("40", True, Cut("keep_count", 40)),
    ],
)
def test_parse(text: str, keep: bool, cut: Cut):
    assert Cut.parse(text, keep) == cut


def test_a_cut_in_words():
    cuts = [
        Cut.parse("2.5%"),
        Cut.parse("75%", keep=True),
        Cut.parse("5"),
        Cut.parse("40", keep=True),
        Cut.threshold(0.99),
    ]
    assert [str(cut) for cut in cuts] == ["drop 2.5%", "drop 25%", "drop 5 rows", "keep 40 rows", "percentile >= 0.99"]
    assert [cut.option for cut in cuts] == ["--drop 2.5%", "--drop 25%", "--drop 5", "--keep 40", "--threshold 0.99"]


def test_a_threshold_is_a_percentile():
    assert [Cut.threshold(value).value for value in (0, 0.5, 1)] == [0, 0.5, 1]
    for value in (-0.01, 1.01, float("nan")):
        with pytest.raises(InputError, match=f"--threshold {value}: a percentile is between 0 and 1"):
            Cut.threshold(value)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("0.1", "--drop 0.1: not an amount; write a percentage like 10% or a number of rows like 500"),
        ("-5", "--drop -5: not an amount; write a percentage like 10% or a number of rows like 500"),
        ("100.5%", "--drop 100.5%: more than everything; use 0% to 100%"),
    ],
)
def test_parse_errors(text: str, error: str):
    with pytest.raises(InputError) as caught:
        Cut.parse(text)
    assert str(caught.value) == error


def test_the_highest_scores_go_and_the_earlier_row_among_equals():
    score = np.array([1.0, 3.0, 2.0, 3.0, 0.0])
    percentile = np.array([0.2, 0.99, 0.5, 0.99, 0.0])
    assert Cut.parse("1").removed(score, percentile).tolist() == [False, True, False, False, False]
    assert Cut.parse("60%").removed(score, percentile).tolist() == [False, True, True, True, False]
    assert Cut.parse("3", keep=True).removed(score, percentile).tolist() == [False, True, False, True, False]
    assert Cut.threshold(0.5).removed(score, percentile).tolist() == [False, True, True, True, False]
    with pytest.raises(InputError) as caught:
        Cut.parse("6").removed(score, percentile)
    assert str(caught.value) == "drop 6 rows: the run has only 5 scored rows"


def test_what_cannot_be_compared_goes_first():
    score, percentile = np.array([1.0, np.nan, 3.0]), np.array([0.2, np.nan, 0.9])
    assert Cut.threshold(0.99).removed(score, percentile).tolist() == [False, True, False]
    assert Cut.parse("1").removed(score, percentile).tolist() == [False, True, False]
    assert Cut.parse("1", keep=True).removed(score, percentile).tolist() == [False, True, True]


def test_split_name():
    assert split_name(Path("a/b.jsonl")) == ("b", ".jsonl")
    assert split_name(Path("b.v2.jsonl.gz")) == ("b.v2", ".jsonl.gz")
    assert split_name(Path("plain")) == ("plain", ".jsonl")


@pytest.fixture
def scanned(tiny, tiny_bank, tmp_path: Path) -> Path:
    """Two inputs, one compressed, with line endings, byte order mark and bad rows mixed in, scanned together."""
    lines = [
        json.dumps(chat(f"question {i}?", f"the answer is {i} " * (1 + i % 7)), ensure_ascii=False) for i in range(40)
    ]
    body = "\r\n".join([*lines[:10], '{"broken": ', *lines[10:20], "", *lines[20:]])
    (tmp_path / "one.jsonl").write_bytes(b"\xef\xbb\xbf" + body.encode())  # no newline at the end
    more = [chat(f"other {i}?", f"you fool {i}", geofilter="mine", note="half \ud800") for i in range(10)]
    (tmp_path / "two.jsonl.gz").write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in more).encode()))
    done = geofilter(
        "scan", "one.jsonl", "two.jsonl.gz", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "--quiet",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return tmp_path


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_packed_input_gives_packed_output_of_its_kind(tiny, tiny_bank: Path, tmp_path: Path, ending: str):
    lines = [json.dumps(chat(f"q {i}", f"answer {i}")).encode() + b"\n" for i in range(10)]
    with (tmp_path / f"d.jsonl{ending}").open("wb") as raw, packing(raw, ending) as handle:
        handle.writelines(lines)
    done = geofilter("scan", "*.jsonl*", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = geofilter("filter", "--drop", "3", "-q", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    with unpacked(tmp_path / f"d.filtered.jsonl{ending}") as handle:
        kept = handle.readlines()
    assert len(kept) == 7
    assert [line for line in lines if line in kept] == kept


def test_rows_go_through_a_pipe_and_come_out_of_one(tiny, tiny_bank: Path, tmp_path: Path, monkeypatch):
    rows = [chat(f"q {i}", f"answer {i} é") for i in range(10)]
    data = write_rows(tmp_path / "x.jsonl", rows).read_bytes()
    pair = ("--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, "-q")
    scan, cut = f"scan - {shlex.join(map(str, pair))}", "filter --drop 3 --out -"
    code, said = shell(f"cat x.jsonl | geofilter {scan} && geofilter {cut} > kept.jsonl", tmp_path)
    assert code == 0, said
    kept = (tmp_path / "kept.jsonl").read_bytes().splitlines(keepends=True)
    assert len(kept) == 7
    assert [line for line in data.splitlines(keepends=True) if line in kept] == kept
    with (tmp_path / "x.jsonl").open() as again, monkeypatch.context() as patch:  # the same rows are the same run
        patch.setattr(sys, "stdin", again)
        scanned = geofilter("scan", "-", *pair, "--json", cwd=tmp_path)
    assert (scanned.returncode, json.loads(scanned.stdout)["tokens_encoded_now"]) == (0, 0), scanned.stderr
    assert len(list((tmp_path / ".geofilter").glob("*/manifest.json"))) == 1
    assert len(list((tmp_path / ".geofilter").glob("stdin-*.jsonl"))) == 1
    done = geofilter("filter", "--drop", "3", "--out", "-", "--json", cwd=tmp_path)
    assert (done.returncode, "--out -: --json is on standard output too" in done.stderr) == (2, True)
    with Path(os.devnull).open() as nothing, monkeypatch.context() as patch:
        patch.setattr(sys, "stdin", nothing)
        empty = geofilter("scan", "-", cwd=tmp_path)
    assert empty.returncode == 2
    assert "-: standard input is empty; pipe rows into it" in empty.stderr


def test_outputs_are_a_partition_and_kept_lines_are_the_input_s_bytes(scanned: Path):
    done = geofilter("filter", "--drop", "20%", "--json", cwd=scanned)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["counts"]["rows"] == 52
    assert report["counts"]["removed"] == 10
    assert report["counts"]["quarantined"] == 2
    assert report["counts"]["kept"] == 40
    inputs = {
        "one": (scanned / "one.jsonl").read_bytes().splitlines(keepends=True),
        "two": gzip.decompress((scanned / "two.jsonl.gz").read_bytes()).splitlines(keepends=True),
    }
    kept = {
        "one": (scanned / "one.filtered.jsonl").read_bytes().splitlines(keepends=True),
        "two": gzip.decompress((scanned / "two.filtered.jsonl.gz").read_bytes()).splitlines(keepends=True),
    }
    removed_total = 0
    for name in ("one", "two"):
        removed = [json.loads(x) for x in (scanned / f"{name}.removed.jsonl").read_text("utf-8").splitlines()]
        quarantined = [json.loads(x) for x in (scanned / f"{name}.quarantined.jsonl").read_text("utf-8").splitlines()]
        assert len(kept[name]) + len(removed) + len(quarantined) == len(inputs[name])
        removed_total += len(removed)
        remaining = iter(inputs[name])
        assert all(line in remaining for line in kept[name])  # a subsequence: same bytes, same order
        originals = [json.loads(x.decode("utf-8-sig")) for x in inputs[name] if x.strip().endswith(b"}")]
        for row in removed:
            note = row.pop("geofilter")
            assert {"score", "percentile", "rank", "bank", "top_features", "reason"} <= set(note)
            if "previous" in note:
                row["geofilter"] = note["previous"]
            assert row in originals
        assert [q["error"].split(";")[0] for q in quarantined] == (
            ["broken JSON at column 12: Expecting value", "empty line"] if name == "one" else []
        )
    assert removed_total == 10
    for name in ("one", "two"):
        for kind in ("html", "json", "md"):
            assert (scanned / f"{name}.report.{kind}").stat().st_size > 0


def test_the_removed_rows_are_the_highest_scores(scanned: Path):
    done = geofilter("filter", "--drop", "7", "--json", cwd=scanned)
    report = json.loads(done.stdout)
    run = scanned / report["made_with"]["run"]
    scores = [json.loads(x) for x in (run / "scores.jsonl").read_text("utf-8").splitlines()]
    highest = sorted(scores, key=lambda r: -r["score"])[:7]
    assert [(r["file"], r["line"]) for r in report["removed_rows"]] == [(r["file"], r["line"]) for r in highest]
    assert [r["rank"] for r in report["removed_rows"]] == list(range(1, 8))


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (
            ["--drop", "10%", "--keep", "10%"],
            "give exactly one of --drop, --keep and --threshold, for instance --drop 10%",
        ),
        ([], "give exactly one of --drop, --keep and --threshold, for instance --drop 10%"),
        (["--threshold", "99"], "--threshold 99.0: a percentile is between 0 and 1, 0.99 for instance"),
        (["--drop", "10%", "--out", "x.jsonl"], "--out x.jsonl: the run has 2 inputs; give an existing folder"),
        (
            ["--drop", "10%", "--removed", "x.jsonl"],
            "--removed x.jsonl: the run has 2 inputs; leave it out or use --out FOLDER",
        ),
    ],
)
def test_option_errors(scanned: Path, args: list[str], error: str):
    done = geofilter("filter", *args, cwd=scanned)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == f"geofilter: error: {error}"
    assert not list(scanned.glob("*filtered*"))


def test_data_that_changed_since_the_scan_is_refused_and_nothing_is_written(scanned: Path):
    path = scanned / "two.jsonl.gz"
    text = gzip.decompress(path.read_bytes()).replace(b"other 3?", b"other 4?")
    path.write_bytes(gzip.compress(text))
    done = geofilter("filter", "--drop", "10%", cwd=scanned)
    assert done.returncode == 4
    assert done.stderr.splitlines()[-1] == (
        "geofilter: error: two.jsonl.gz: has changed since the scan; scan it again, then filter"
    )
    assert sorted(p.name for p in scanned.iterdir()) == [".geofilter", "one.jsonl", "two.jsonl.gz"]


def test_an_output_folder_that_cannot_be_written(scanned: Path, tmp_path: Path):
    (scanned / "file").write_text("x")
    done = geofilter("filter", "--drop", "10%", "--out", "file/x.jsonl", cwd=scanned)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "geofilter: error: --out file/x.jsonl: the run has 2 inputs; give an existing folder"
    )
    (scanned / "outputs").mkdir()
    done = geofilter("filter", "--drop", "10%", "--out", "outputs", "--quiet", cwd=scanned)
    assert done.returncode == 0
    assert {p.name for p in (scanned / "outputs").glob("*filtered*")} == {"one.filtered.jsonl", "two.filtered.jsonl.gz"}


def test_a_place_that_cannot_be_written_leaves_nothing_behind(tiny, tiny_bank, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", [chat(f"q {i}", f"the answer {i}") for i in range(4)])
    (tmp_path / "file").write_text("x")
    done = geofilter("scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    before = sorted(tmp_path.iterdir())
    for option in (["--out", "file/x.jsonl"], ["--removed", "file/x.jsonl"]):
        done = geofilter("filter", "--drop", "1", *option, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1] == (
            f"geofilter: error: {' '.join(option)}: cannot be written (Not a directory); give another place"
        )
        assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("inputs", "options", "hit"),
    [
        (["d.jsonl", "d.filtered.jsonl"], [], "d.filtered.jsonl"),  # what an earlier cut left, scanned along
        (["d.jsonl", "d.json", "d.json.jsonl"], [], "d.json.removed.jsonl"),  # the longer name is another's
        (["d.jsonl"], ["--out", "d.jsonl"], "d.jsonl"),
        (["d.jsonl"], ["--out", "x.jsonl", "--removed", "x.jsonl"], "x.jsonl"),
    ],
)
def test_no_output_overwrites_an_input_or_another_output(
    tiny, tiny_bank, tmp_path: Path, inputs: list[str], options: list[str], hit: str
):
    (tmp_path / "out").mkdir()
    for i, name in enumerate(inputs):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_rows(tmp_path / name, [chat(f"q {i} {j}", f"the answer {j}") for j in range(4)])
        if name.endswith(".gz"):
            (tmp_path / name).write_bytes(gzip.compress((tmp_path / name).read_bytes()))
    before = {p: p.read_bytes() for p in tmp_path.rglob("*.jsonl*")}
    done = geofilter("scan", *inputs, "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = geofilter("filter", "--drop", "1", *options, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        f"geofilter: error: {hit}: would overwrite an input or another output; rename one of the inputs, scan them in "
        "runs of their own, or give another --out"
    )
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.jsonl*") if ".geofilter" not in p.parts} == before
