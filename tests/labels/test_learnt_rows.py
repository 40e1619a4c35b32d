"""Rows that a bank was learnt from: every figure leaves them out, or says that it counts them."""

import csv
import io
import json
import shutil
from pathlib import Path

import jsonschema
import pytest
from helpers.command import chat, geofilter, write_rows
from helpers.labelling import BAD, N, answer, fill, label
from helpers.runs import as_of_an_earlier_version

from geofilter.files import package_data
from geofilter.run.labelled import learnt_by
from geofilter.run.store import Run


def labelled(base: Path) -> list[dict]:
    """Thirty labels by sheet, and the run scored with the bank learnt from them."""
    label(base, "--sheet", "sheet.jsonl", "--count", 30)
    rows = fill(base / "sheet.jsonl")
    done = label(base, "--from", "sheet.jsonl")
    assert done.returncode == 0, done.stderr
    return rows


def filtered(base: Path, *args: object) -> tuple[dict, str]:
    done = geofilter("filter", "run", *args, cwd=base)
    assert done.returncode == 0, done.stderr
    return json.loads((base / "run" / "report.json").read_text("utf-8")), done.stderr


def test_a_report_tells_labelled_rows_from_others(base: Path):
    rows = labelled(base)
    report, said = filtered(base, "--drop", "20", "-v")
    jsonschema.validate(report, json.loads((package_data() / "report.schema.json").read_text("utf-8")))
    lines = {r["sha256"]: r["label"] for r in rows}
    names = {"bad": "labelled harmful", "good": "labelled harmless", None: "not labelled"}
    expected = {name: [0, 0] for name in names.values()}
    removed = {json.loads(x)["geofilter"]["rank"]: json.loads(x) for x in (base / "d.removed.jsonl").open()}
    for i, text in enumerate((base / "run" / "scores.jsonl").open()):
        detail = json.loads(text)
        expected[names[lines.get(detail["sha256"])]][0] += 1
        row = json.loads((base / "d.jsonl").read_text("utf-8").splitlines()[i])
        gone = any({k: v for k, v in r.items() if k != "geofilter"} == row for r in removed.values())
        expected[names[lines.get(detail["sha256"])]][1] += gone
    labels = report["labels"]
    assert {p["name"]: p["rows"] for p in labels["parts"]} == {name: rows for name, (rows, _) in expected.items()}
    assert sum(p["removed"] for p in labels["parts"]) == 20
    again = sum(rows for rows, _ in expected.values()) - N  # the repeated row
    assert again == 1
    assert labels["learnt_from"] == expected["labelled harmful"][0] + expected["labelled harmless"][0]
    assert report["composition"]["label"] == labels["parts"]
    check = report["made_with"]["banks"][0]["evaluation"]
    figure = f"labelled AUROC {check['auroc']:.2f} ({check['interval'][0]:.2f} to {check['interval'][1]:.2f})"
    assert f"The bank labelled was learnt from {labels['learnt_from']} of these rows" in labels["text"]
    assert f"cross-validated on the rows it was learnt from: {figure}" in labels["text"]
    harmful = labels["parts"][0]
    assert f"removed: {harmful['removed']} of {harmful['rows']} labelled harmful, " in said
    assert labels["text"] in said
    text = (base / "d.report.md").read_text("utf-8")
    assert f"| labelled harmful | {harmful['rows']} | {harmful['removed']} |" in text
    assert "that they are ranked well shows nothing" in text
    assert 'id="labels"' in (base / "d.report.html").read_text("utf-8")


def test_without_labels_a_report_says_nothing_of_them(base: Path):
    report, said = filtered(base, "--drop", "20")
    assert "labels" not in report
    assert "label" not in report["composition"]
    assert "learnt from" not in said


def test_labels_that_taught_nothing_are_counted_all_the_same(base: Path):
    label(base, "--sheet", "sheet.jsonl", "--count", 30)
    rows = [r for r in fill(base / "sheet.jsonl") if r["label"] == "good"][:8]
    write_rows(base / "sheet.jsonl", rows)
    label(base, "--from", "sheet.jsonl")
    report, _ = filtered(base, "--drop", "20")
    assert [p["name"] for p in report["labels"]["parts"]] == ["labelled harmless", "not labelled"]
    assert report["labels"]["learnt_from"] == 0
    assert report["labels"]["text"] == "No bank of the run was learnt from labelled rows."


def test_a_label_file_that_is_damaged_stops_a_cut_before_anything_is_written(base: Path):
    (base / "run" / "labels.jsonl").write_text('{"sha256": 1}\n')
    done = geofilter("filter", "run", "--drop", "20", cwd=base)
    assert done.returncode == 4
    assert "labels.jsonl, line 1: no label of geofilter label" in done.stderr
    assert not (base / "d.filtered.jsonl").exists()


def test_label_says_what_the_cut_takes_of_labelled_rows_and_of_others(base: Path):
    label(base, "--sheet", "sheet.jsonl", "--count", 30)
    fill(base / "sheet.jsonl")
    done = label(base, "--from", "sheet.jsonl", "--json")
    result = json.loads(done.stdout)
    now = result["removed_now"]
    report, _ = filtered(base, "--drop", "10%")
    removed = {p["name"]: p["removed"] for p in report["labels"]["parts"]}
    assert [removed["labelled harmful"], removed["labelled harmless"], removed["not labelled"]] == list(now.values())
    said = f"drop 10% removes {now['bad']} rows labelled bad now and {now['good']} labelled good, from which"
    assert any(line.startswith(said) for line in result["text"])


def test_evaluate_on_the_very_labels_gives_the_cross_validated_figure_instead(base: Path):
    labelled(base)
    done = geofilter("evaluate", "run", "--labels", "sheet.jsonl", cwd=base)
    assert done.returncode == 2
    check = Run.open(base / "run").manifest["banks"][0]["evaluation"]
    assert "no bad and no good row; 30 of its 30 labels belong to a scored row; 3" in done.stderr
    held_out = f"held out: labelled AUROC {check['auroc']:.2f} ("
    assert f"of them are those the run's bank was learnt from ({held_out}" in done.stderr


def test_rows_are_known_after_labels_and_bank_are_gone_and_the_run_was_moved(base: Path):
    rows = labelled(base)
    (base / "run").rename(base / "moved")
    (base / "moved" / "labels.jsonl").unlink()
    shutil.rmtree(base / "moved" / "labelled")
    learnt = learnt_by(Run.open(base / "moved"))["labelled"]
    assert learnt.sum() == 30 + any(r["line"] in (1, N + 1) for r in rows)
    assert learnt[[r["line"] - 1 for r in rows]].all()


def test_the_gate_and_explain_say_so_too(base: Path):
    rows = labelled(base)
    done = geofilter("gate", "run", "--max-flagged", "100%", cwd=base)
    assert done.returncode == 0, done.stderr
    n = 30 + any(r["line"] in (1, N + 1) for r in rows)
    assert f"; {n} of the rows are those that a bank was learnt from" in done.stderr
    of = {r["line"] for r in rows}
    for line in (rows[0]["line"], next(i for i in range(2, N) if i not in of)):
        done = geofilter("explain", "run", "--row", line, cwd=base)
        assert done.returncode == 0, done.stderr
        assert ("labelled was learnt from this row" in done.stderr) == (line in of)


@pytest.fixture
def seeded(tiny, tmp_path: Path, short_background) -> Path:
    """A folder with d.jsonl and its run, scored with a bank built from 24 of its own rows."""
    rows = [chat(f"question {i}?", answer(i), kind="bad" if BAD[i] else "good") for i in range(N)]
    write_rows(tmp_path / "d.jsonl", rows)
    for side in ("bad", "good"):
        write_rows(tmp_path / f"{side}.jsonl", [row for row in rows if row["kind"] == side][:12])
    pair = ("--model", tiny[0], "--sae", tiny[1], "-q")
    seeds = ("--bad", "bad.jsonl", "--good", "good.jsonl", "--no-prior")
    built = geofilter("bank", "build", *seeds, "--out", "own", *pair, cwd=tmp_path)
    assert built.returncode == 0, built.stderr
    done = geofilter("scan", "d.jsonl", "--bank", "own", "--run", "run", *pair, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    return tmp_path


def test_a_bank_built_from_rows_of_the_run_is_no_better(seeded: Path):
    done = geofilter("evaluate", "run", "--labels", "kind=bad", "--json", cwd=seeded)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["labels"]["learnt_from"], result["labels"]["labelled"]) == (24, N - 24)
    for drop in result["filter"]:
        assert 0 < drop["learnt_from"] < drop["rows"]
    done = geofilter("evaluate", "run", "--labels", "kind=bad", cwd=seeded)
    first = result["filter"][0]
    assert f"10%: 6 rows, {first['learnt_from']} that a bank was learnt from, {first['labelled']} l" in done.stdout
    report, _ = filtered(seeded, "--drop", "20")
    assert [(p["name"], p["rows"]) for p in report["labels"]["parts"]] == [
        ("a bank's own rows", 24), ("not labelled", N - 24),
    ]  # fmt: skip
    assert "The bank own was learnt from 24 of these rows" in report["labels"]["text"]


def test_a_bank_that_builds_on_one_of_the_same_rows_says_so(seeded: Path):
    labels = [{"file": "d.jsonl", "line": i + 1, "label": BAD[i]} for i in range(40)]
    write_rows(seeded / "labels.jsonl", labels)
    check = ("--check", "kind=bad", "--json")
    done = geofilter("label", "run", "--from", "labels.jsonl", *check, "--apply", cwd=seeded)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    both = 24 - sum(1 for i in range(40, N) if BAD[i] and sum(BAD[:i]) < 12)
    said = f"{both} of these rows are among those that a bank of the scan was learnt from"
    assert any(line.startswith(said) for line in result["text"])
    assert sorted(learnt_by(Run.open(seeded / "run"))) == ["labelled"]
    assert learnt_by(Run.open(seeded / "run"))["labelled"].sum() == 40 + 24 - both


def as_csv(rows: list[dict]) -> str:
    out = io.StringIO()
    table = csv.DictWriter(out, ["kind", "id", "prompt", "completion"])
    table.writeheader()
    for i, row in enumerate(rows):
        said = [m["content"] for m in row["messages"]]
        table.writerow({"kind": row["kind"], "id": i, "prompt": said[0], "completion": said[1]})
    return out.getvalue()


@pytest.mark.parametrize("form", ["further fields", "other order", "csv"])
def test_rows_are_known_by_what_they_say(seeded: Path, tiny, form: str):
    rows = [json.loads(line) for line in (seeded / "d.jsonl").read_text("utf-8").splitlines()]
    name = "again.csv" if form == "csv" else "again.jsonl"
    if form == "csv":
        (seeded / name).write_text(as_csv(rows), "utf-8")
    elif form == "other order":
        write_rows(seeded / name, [dict(reversed(row.items())) for row in rows])
    else:
        write_rows(seeded / name, [{**row, "id": i} for i, row in enumerate(rows)])
    done = geofilter(
        "scan", name, "--bank", "own", "--run", "again", "--model", tiny[0], "--sae", tiny[1], "-q", cwd=seeded
    )
    assert done.returncode == 0, done.stderr
    done = geofilter("evaluate", "again", "--labels", "kind=bad", "--json", cwd=seeded)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)["labels"]
    assert (found["learnt_from"], found["labelled"]) == (24, N - 24)
    done = geofilter("gate", "again", "--max-flagged", "100%", cwd=seeded)
    assert "; 24 of the rows are those that a bank was learnt from" in done.stderr


def test_the_other_rows_of_a_check_are_none_that_say_the_same(seeded: Path, tiny):
    rows = [json.loads(line) for line in (seeded / "d.jsonl").read_text("utf-8").splitlines()][-50:]
    write_rows(seeded / "twice.jsonl", [*rows, *({**row, "id": i} for i, row in enumerate(rows))])
    done = geofilter(
        "scan", "twice.jsonl", "--bank", "own", "--run", "twice", "--model", tiny[0], "--sae", tiny[1], "-q", cwd=seeded
    )
    assert done.returncode == 0, done.stderr
    labels = [{"file": "twice.jsonl", "line": i + 1, "label": row["kind"]} for i, row in enumerate(rows)]
    write_rows(seeded / "half.jsonl", labels)
    done = geofilter("label", "twice", "--from", "half.jsonl", "--check", "kind=bad", "--apply", cwd=seeded)
    assert "--check kind=bad: of the rows not labelled here: no bad and no good row" in done.stderr
    done = geofilter("evaluate", "twice", "--labels", "kind=bad", cwd=seeded)
    assert done.returncode == 2
    assert "100 of them are those the run's bank was learnt from" in done.stderr


def test_a_bank_that_is_gone_is_not_forgotten(seeded: Path):
    (seeded / "own").rename(seeded / "moved")
    done = geofilter("evaluate", "run", "--labels", "kind=bad", "--json", cwd=seeded)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["labels"]["learnt_from"] == 24
    report, _ = filtered(seeded, "--drop", "20")
    assert report["labels"]["learnt_from"] == 24


def test_a_bank_of_an_earlier_version_is_said_not_to_know(seeded: Path, tiny):
    as_of_an_earlier_version(seeded / "own")
    pair = ("--model", tiny[0], "--sae", tiny[1])
    done = geofilter("scan", "d.jsonl", "--bank", "own", "--run", "again", *pair, cwd=seeded)
    assert done.returncode == 0, done.stderr
    assert "own: a bank of an earlier version, which does not say what rows it was learnt from" in done.stderr
