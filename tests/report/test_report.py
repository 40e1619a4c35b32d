import json
import re
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.hostile import HOSTILE

from geofilter.bank.bank import Bank
from geofilter.files import package_data
from geofilter.text import CELL, markdown_text


def test_hostile_rows_are_inert_text(tiny, tiny_bank: Path, tmp_path: Path):
    rows = [chat(HOSTILE, HOSTILE + f" {i}") for i in range(4)]
    rows += [{"messages": [{"role": HOSTILE, "content": "x"}]}]
    write_rows(tmp_path / "d.jsonl", rows)
    done = geofilter("scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = geofilter("filter", "--drop", "2", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stderr
    page = (tmp_path / "d.report.html").read_text("utf-8")
    assert page.count("<script") == 2  # the data and the page's own
    assert "<img" not in page
    assert 'content="default-src &#39;none&#39;; ' in page
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", page)
    text = (tmp_path / "d.report.md").read_text("utf-8")
    assert "<script" not in text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e]", text)
    done = geofilter("explain", "--row", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "\x1b[31m" not in done.stdout


def without_others(schema):
    """The schema with no field allowed that it does not name: one that comes to reports comes into it too."""
    if isinstance(schema, list):
        return [without_others(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {k: without_others(v) for k, v in schema.items()}
    return {"additionalProperties": False, **strict} if "properties" in schema else strict


def test_every_report_keeps_to_the_schema(tiny, tiny_bank: Path, tmp_path: Path):
    schema = json.loads((package_data() / "report.schema.json").read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    schema = without_others(schema)
    rows = [chat(f"q {i}", f"the answer {i} " * (1 + i % 4), source="ab"[i % 2]) for i in range(40)]
    write_rows(tmp_path / "d.jsonl", [*rows, {"nothing": 1}])
    geofilter("scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, cwd=tmp_path)
    for cut in (["--drop", "0"], ["--keep", "0"], ["--threshold", "0.9"], ["--drop", "25%"]):
        done = geofilter("filter", *cut, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        jsonschema.validate(json.loads(done.stdout), schema)
    done = geofilter("report", "--shade", "3", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    jsonschema.validate(report, schema)
    assert "spans" in report["nearest_kept_rows"][0]
    assert set(report["explained"]) == {"median", "half"}
    texts = [e["text"] for f in report["features"] for e in f["examples"]]
    assert texts
    assert all(e["strong"] for f in report["features"] for e in f["examples"])
    page = (tmp_path / "d.report.html").read_text("utf-8")
    assert '<div class="example" title="a bad row of the bank">' in page
    assert {c["name"]: c["rows"] for c in report["composition"]["source"]} == {"a": 20, "b": 20}
    del report["headline"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(report, schema)


def test_words_are_marked_as_the_scan_has_stored_them_and_as_shading_finds_them(tiny, tiny_bank: Path, tmp_path: Path):
    answers = [f"you fool, {i} \N{CLOWN FACE} times no " * (1 + i) for i in range(12)]
    write_rows(tmp_path / "d.jsonl", [chat(f"q {i}", text + ("x " * 1500 if i == 3 else "")) for i, text in
                                      enumerate(answers)])  # fmt: skip
    scan = ("scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--run", "run")
    assert geofilter(*scan, "--bank", tiny_bank, cwd=tmp_path).returncode == 0
    found = []
    for command in (["filter", "run", "--drop", "12"], ["report", "run", "--shade", "12"]):
        done = geofilter(*command, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout)["removed_rows"])
    for stored, shaded in zip(*found, strict=True):
        text = stored["response"]
        assert all(0 <= a < b <= len(text.removesuffix("…")) for a, b, _ in stored["spans"])
        assert any("fool" in text[a:b] or text[a:b] in " you fool" for a, b, _ in stored["spans"])
        step = max(abs(share) for *_, share in stored["spans"]) / 126
        both = [{(a, b): share for a, b, share in row["spans"]} for row in (stored, shaded)]
        assert all(abs(both[0].get(at, 0) - both[1].get(at, 0)) <= 2 * step + 2e-4 for at in {**both[0], **both[1]})
    other = replace(Bank.load(tiny_bank), name="other", weights=-Bank.load(tiny_bank).weights)
    other.save(tmp_path / "other")
    assert geofilter(*scan, "--bank", "other", cwd=tmp_path).returncode == 0
    done = geofilter("filter", "run", "--drop", "12", "--json", cwd=tmp_path)
    assert not any("spans" in row for row in json.loads(done.stdout)["removed_rows"])  # they are of another bank
    said = geofilter("filter", "run", "--drop", "12", cwd=tmp_path).stderr
    assert "no words are marked, the scan stored those of other banks: geofilter report run --shade 20" in said
    assert geofilter("report", "run", "--shade", "12", cwd=tmp_path).returncode == 0
    removed = json.loads((tmp_path / "d.report.json").read_text("utf-8"))["removed_rows"]
    assert any(row["spans"] for row in removed)


def test_shading_leaves_the_report_of_another_run_alone(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", [chat(f"q {i}", f"the answer {i} " * (1 + i % 4)) for i in range(20)])
    target = ["--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank]
    for run, drop in (("one", "2"), ("two", "10")):
        geofilter("scan", "d.jsonl", *target, "--run", run, cwd=tmp_path)
        geofilter("filter", run, "--drop", drop, cwd=tmp_path)
    before = (tmp_path / "d.report.json").read_bytes()
    done = geofilter("report", "one", "--shade", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "d.report.json").read_bytes() == before
    assert "spans" in json.loads((tmp_path / "one" / "report.json").read_text("utf-8"))["removed_rows"][0]
    geofilter("scan", "d.jsonl", *target, "--run", "one", "--scorer", "contrast", cwd=tmp_path)
    done = geofilter("report", "one", cwd=tmp_path)
    assert "the run has been scored anew since this report" in done.stderr
    done = geofilter("report", "one", "--shade", "1", cwd=tmp_path)
    assert done.returncode == 2
    assert "one: scored anew since it was cut; run geofilter filter one --drop 10% first" in done.stderr


def test_report_says_the_verdict_first_and_adds_up(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", [chat(f"q {i}", f"the answer {i} " * (1 + i % 4)) for i in range(40)])
    geofilter("scan", "d.jsonl", "--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank, cwd=tmp_path)
    missing = geofilter("report", cwd=tmp_path)
    assert missing.returncode == 2
    # Names the run: the newest one may be another.
    assert re.search(r"d-\w+: not cut yet; run geofilter filter \S+d-\w+ --drop 10% first$", missing.stderr.rstrip())
    done = geofilter("filter", "--drop", "25%", cwd=tmp_path)
    report = json.loads((tmp_path / "d.report.json").read_text("utf-8"))
    lines = done.stderr.splitlines()
    assert lines[1] == report["verdict"]["sentence"]  # after the note that names the run
    first = report["removed_rows"][0]
    row = next(i for i, line in enumerate(lines) if line == "highest removed rows") + 1
    assert lines[row].startswith(f"{first['score']:6.2f}  line {first['line']}  ")
    assert "the answer" in lines[row]
    assert len(lines[row]) <= 80
    assert f"next: {report['verdict']['action']}" in lines
    assert len(lines) <= 27
    assert not any(
        "scores (# kept, x removed)" in line or said in line for line in lines for said in report["verdict"]["why"]
    )
    said, written = report["verdict"], (tmp_path / "d.report.md").read_text("utf-8")
    assert written.splitlines()[2] == f"**{markdown_text(said['sentence'])}**"
    assert len(said["why"][1]) > CELL  # longer than a cell may be, and whole all the same
    assert f"- {markdown_text(said['why'][1])}" in written
    assert report["counts"]["kept"] + report["counts"]["removed"] == 40
    assert sum(report["histogram"]["kept"]) == 30
    assert sum(report["histogram"]["removed"]) == 10
    assert report["controls"]["flagged"]["kept_after_random_removal"] == round(report["counts"]["flagged"] * 0.75, 1)
    assert set(report["controls"]["overlap_with_equal_cut_by"]) == {
        *("longest", "shortest", "most bullets", "fewest bullets"),
        *("most digits", "fewest digits", "most code", "least code"),
    }
    done = geofilter("report", "--json", cwd=tmp_path)
    assert json.loads(done.stdout) == report
    more = geofilter("filter", "--drop", "25%", "-v", cwd=tmp_path).stderr.splitlines()
    assert {"scores (# kept, x removed)", *said["why"]} <= set(more)
