"""Which run is meant: the newest finished one, one of a data file, or one by a part of its name."""

import json
import os
import shlex
from pathlib import Path

import pytest
from helpers.command import geofilter, write_rows
from helpers.runs import write_manifest
from helpers.scanning import errors_of, only_run, rows, scan_args

from geofilter.errors import RunError
from geofilter.run.find import named, newest, runs_of
from geofilter.run.store import FORMAT, Run


def made(folder: Path, name: str, age: int, complete: bool = True, data: str = "d.jsonl", **more) -> Path:
    """A run folder with nothing but a manifest, that many seconds old."""
    path = folder / ".geofilter" / name
    path.mkdir(parents=True)
    files = [{"path": data, "sha256": "", "lines": 3, "rows": 3}]
    write_manifest(path, {"format": FORMAT, "complete": complete, "data": files, **more})
    os.utime(path / "manifest.json", (1e9 - age, 1e9 - age))
    return path


def test_the_newest_finished_run_is_taken_and_newer_ones_are_told_of(tmp_path: Path):
    made(tmp_path, "old-1", 300)
    done = made(tmp_path, "done-2", 200)
    words = ["geofilter", "scan", "my data.jsonl", "--model", "m"]
    stopped = made(tmp_path, "stopped-3", 100, complete=False, command=words)
    other = made(tmp_path, "other-4", 50, format=FORMAT - 1)
    broken = made(tmp_path, "broken-5", 10)
    (broken / "manifest.json").write_text("[]")
    told: list[str] = []
    assert newest(tmp_path, told.append).path == done
    assert sorted(told) == sorted([
        f"note: newer run {stopped} is not finished; go on with: geofilter scan 'my data.jsonl' --model m",
        f"note: a newer run is passed over: {other}: run format {FORMAT - 1} is not readable here; scan again",
        f"note: a newer run is passed over: {broken}/manifest.json: damaged (no object); run the same geofilter scan "
        "again, which writes it anew",
    ])  # fmt: skip


def test_where_no_run_is_finished_the_error_names_what_finishes_the_newest(tmp_path: Path):
    made(tmp_path, "a-1", 300, complete=False)
    path = made(tmp_path, "b-2", 100, complete=False, command=["geofilter", "scan", "x.jsonl"])
    with pytest.raises(RunError) as caught:
        newest(tmp_path, print)
    assert str(caught.value) == f"{path}: the scan is not complete; go on with: geofilter scan x.jsonl"


def test_a_run_is_named_by_its_data_its_name_or_the_beginning_of_it(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    paths = {
        "a-11aa": made(tmp_path, "a-11aa", 500, data="data/a.jsonl"),
        "a-22bb": made(tmp_path, "a-22bb", 400, data="data/a.jsonl"),
        "a-33cc": made(tmp_path, "a-33cc", 300, data="data/a.jsonl", complete=False, command=["geofilter", "scan"]),
        "b-44dd": made(tmp_path, "b-44dd", 200, data="one/b.jsonl"),
        "b-45ee": made(tmp_path, "b-45ee", 100, data="two/b.jsonl"),
        "c-66ff": made(tmp_path, "c-66ff", 50, data=".geofilter/c.parquet"),
    }
    manifest = json.loads((paths["c-66ff"] / "manifest.json").read_text())
    manifest["data"][0]["origin"] = {"id": "org/set", "config": "default", "split": "train", "revision": "abc"}
    write_manifest(paths["c-66ff"], manifest)
    told: list[str] = []

    def found(text: str) -> Path:
        return named(Path(text), tmp_path, told.append).path.absolute()

    for text, name in [
        ("data/a.jsonl", "a-22bb"), ("./data/a.jsonl", "a-22bb"), ("a.jsonl", "a-22bb"), ("two/b.jsonl", "b-45ee"),
        ("a-11aa", "a-11aa"), ("a-1", "a-11aa"), ("22b", "a-22bb"), ("44", "b-44dd"), ("org/set", "c-66ff"),
        (".geofilter/a-11aa", "a-11aa"), ("c", "c-66ff"),
    ]:  # fmt: skip
        assert found(text) == paths[name], text
    assert told == [f"note: newer run {paths['a-33cc']} is not finished; go on with: geofilter scan"] * 3


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("b.jsonl", "b.jsonl: there are runs of two/b.jsonl, one/b.jsonl; give one of these paths"),
        ("b-4", "b-4: may be b-45ee or b-44dd; give one of these names"),
        ("4", "4: may be b-45ee or b-44dd; give one of these names"),
        ("here.jsonl", "here.jsonl: no run of this file here; make one with geofilter scan here.jsonl"),
        ("dir", "dir: not a run folder (no manifest.json); make one with geofilter scan"),
        ("bb-44dd", "bb-44dd: no such run; geofilter runs lists those that are here; did you mean b-44dd?"),
        ("two/c.jsonl", "two/c.jsonl: no such run; geofilter runs lists those that are here; did you mean "
                        "two/b.jsonl?"),
        ("zzz", "zzz: no such run; geofilter runs lists those that are here"),
    ],
)  # fmt: skip
def test_what_names_no_run_or_several_is_refused(tmp_path: Path, monkeypatch, text: str, error: str):
    monkeypatch.chdir(tmp_path)
    made(tmp_path, "b-44dd", 200, data="one/b.jsonl")
    made(tmp_path, "b-45ee", 100, data="two/b.jsonl")
    Path("here.jsonl").touch()
    Path("dir").mkdir()
    with pytest.raises(RunError) as caught:
        named(Path(text), tmp_path, print)
    assert str(caught.value) == error


@pytest.mark.parametrize(
    ("option", "code", "error"),
    [
        (["--bank", "toxik-text"], 3, "--bank toxik-text: neither a built-in bank (toxic-text, harmful-answers) nor a "
                                      "folder; did you mean toxic-text?"),
        (["--exclude-feature", "toxik-text:3"], 2, "--exclude-feature toxik-text:3: there is no bank toxik-text here; "
                                                   "use tiny-bank, toxic-text, harmful-answers; did you mean "
                                                   "toxic-text?"),
        (["--exclude-feature", "9999"], 2, "--exclude-feature 9999: the SAE of model has features 0 to 127"),
    ],
)  # fmt: skip
def test_a_scan_that_cannot_begin_leaves_no_run(tiny, tiny_bank, tmp_path: Path, option: list, code: int, error: str):
    write_rows(tmp_path / "d.jsonl", rows(3))
    done = geofilter(*scan_args(tiny, tiny_bank, *option), cwd=tmp_path)
    assert (done.returncode, errors_of(done)) == (code, error)
    assert not (tmp_path / ".geofilter").exists()


def test_what_is_said_to_go_on_with_does_so(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "d.jsonl", rows(5))
    write_rows(tmp_path / "e f.jsonl", [{"q": f"q {i}", "a": f"the answer {i}", "meta": {"x": 1}} for i in range(5)])
    assert geofilter(*scan_args(tiny, tiny_bank), cwd=tmp_path).returncode == 0
    first = only_run(tmp_path)
    options = ["--fields", "prompt=q,response=a", "--limit", 4, "--shard-rows", 2, "--exclude-feature", 3, "--scorer"]
    pair = scan_args(tiny, tiny_bank)[2:]
    done = geofilter("scan", "e f.jsonl", *pair, *options, "contrast", "--system", "fold", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (second,) = set((tmp_path / ".geofilter").iterdir()) - {first}
    whole = (second / "scores.jsonl").read_bytes()
    manifest = Run(second).manifest
    manifest["complete"] = False
    Run(second).write_manifest(manifest)
    next((second / "features").iterdir()).unlink()
    (second / "scores.jsonl").unlink()
    done = geofilter("filter", "--drop", 1, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["files"][0]["input"] == "d.jsonl"
    note = next(line for line in done.stderr.splitlines() if line.startswith(f"note: newer run {second} is not"))
    command = shlex.split(note.partition("go on with: ")[2])
    assert geofilter(*command[1:], cwd=tmp_path).returncode == 0
    assert [f.error for f in runs_of(tmp_path)] == ["", ""]
    assert (second / "scores.jsonl").read_bytes() == whole
