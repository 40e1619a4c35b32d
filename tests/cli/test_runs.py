"""`geofilter runs`, runs named by their data, and rows named by their rank."""

import json
import re
from pathlib import Path

import pytest
from helpers.command import geofilter, write_rows
from helpers.scanning import errors_of, rows, scan_args

from geofilter.run.store import Run


@pytest.fixture(scope="module")
def folder(tiny, tiny_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of a.jsonl, cut, of a.jsonl and b.jsonl, not cut, and an unfinished one of c.jsonl, the newest."""
    path = tmp_path_factory.mktemp("runs")
    for i, name in enumerate("abc"):
        write_rows(path / f"{name}.jsonl", rows(6 + i))
    for data in (["a.jsonl"], ["b.jsonl", "a.jsonl"], ["c.jsonl"]):
        done = geofilter("scan", *data, *scan_args(tiny, tiny_bank)[2:], cwd=path)
        assert done.returncode == 0, done.stderr
        if data == ["a.jsonl"]:
            assert geofilter("filter", "--drop", "2", cwd=path).returncode == 0
    (last,) = (path / ".geofilter").glob("c-*")
    Run(last).write_manifest({**Run(last).manifest, "complete": False})
    return path


def test_runs_are_listed_newest_first(folder: Path):
    done = geofilter("runs", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(r["data"], r["rows"], r["finished"]) for r in found] == [
        (["c.jsonl"], 8, False), (["b.jsonl", "a.jsonl"], 13, True), (["a.jsonl"], 6, True),
    ]  # fmt: skip
    cut = {"cut": "drop 2 rows", "removed": 2, "kept": 4, "scored_anew": False}
    assert [r["last_cut"] for r in found] == [None, None, cut]
    assert {r["target"] for r in found} == {"model"}
    assert "go on with: geofilter scan c.jsonl --model" in found[0]["error"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", found[2]["changed"])
    shown = geofilter("runs", cwd=folder)
    lines = [" ".join(line.split()) for line in shown.stdout.splitlines() if "-" in line]
    assert [line.partition(" ")[2] for line in lines] == [
        "c.jsonl model 8 - under a minute not finished",
        "b.jsonl and 1 more model 13 - under a minute finished",
        "a.jsonl model 6 drop 2 rows: 2 removed under a minute finished",
    ]
    assert f"{found[0]['name']} is not finished; go on with: geofilter scan c.jsonl" in shown.stderr


def test_no_run_and_a_damaged_one(tmp_path: Path):
    done = geofilter("runs", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "")
    assert "no run here" in done.stderr
    (tmp_path / ".geofilter" / "x").mkdir(parents=True)
    (tmp_path / ".geofilter" / "x" / "manifest.json").write_text("{")
    done = geofilter("runs", cwd=tmp_path)
    assert done.returncode == 0
    assert "cannot be read" in done.stdout
    assert "manifest.json: damaged" in done.stderr
    assert json.loads(geofilter("runs", "--json", cwd=tmp_path).stdout)[0]["rows"] is None


def test_commands_take_a_run_by_its_data_or_the_beginning_of_its_name(folder: Path):
    (name,) = [path.name for path in (folder / ".geofilter").glob("a-*")]
    for text in (name, name[:4], name.rpartition("-")[2][:6]):
        done = geofilter("filter", text, "--drop", "2", cwd=folder)
        assert done.returncode == 0, done.stderr
        assert f".geofilter/{name}" in done.stderr.splitlines()[0]
    done = geofilter("gate", "b.jsonl", "--max-flagged", "100%", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"] == ["b.jsonl", "a.jsonl"]
    done = geofilter("explain", "c.jsonl", "--row", "1", cwd=folder)
    assert done.returncode == 4
    assert "the scan is not complete; go on with: geofilter scan c.jsonl" in errors_of(done)


def test_a_run_of_another_working_folder_says_where_it_belongs(folder: Path, tmp_path: Path):
    """Its data are named from there; a file of the same name here would be taken for it."""
    write_rows(tmp_path / "a.jsonl", rows(3))
    (run,) = (folder / ".geofilter").glob("a-*")
    for args in (["gate", run], ["filter", run, "--drop", "1"], ["explain", run, "--row", "1"]):
        done = geofilter(*args, cwd=tmp_path)
        assert done.returncode == 4
        assert errors_of(done) == f"{run}: its data a.jsonl is named from {folder}; run the command there: cd {folder}"


def test_a_row_may_be_named_by_its_rank(folder: Path):
    done = geofilter("filter", "b.jsonl", "--drop", "5", cwd=folder)
    assert done.returncode == 0, done.stderr
    removed = [json.loads(x) for n in "ab" for x in (folder / f"{n}.removed.jsonl").read_text("utf-8").splitlines()]
    third = next(r["geofilter"] for r in removed if r["geofilter"]["rank"] == 3)
    done = geofilter("explain", "b.jsonl", "--row", "#3", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["score"] == third["score"]


@pytest.mark.parametrize(
    ("args", "error"),
    [
        (["--row", "#0"], "--row #0: the run's rows have the ranks #1 to #13"),
        (["--row", "#14"], "--row #14: the run's rows have the ranks #1 to #13"),
        (["--row", "#x"], "--row #x: no row; give its line, 17 for instance, or '#3' for the third highest score"),
        (["--row", "two"], "--row two: no row; give its line, 17 for instance, or '#3' for the third highest score"),
        (["--row", "#1", "--file", "a.jsonl"], "--row #1: a rank is of the whole run; leave --file a.jsonl out"),
    ],
)
def test_a_row_that_there_is_not(folder: Path, args: list[str], error: str):
    done = geofilter("explain", "b.jsonl", *args, cwd=folder)
    assert (done.returncode, errors_of(done)) == (2, error)
