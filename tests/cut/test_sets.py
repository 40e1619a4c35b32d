"""A cut's files are one set: all of a cut, or told apart from a whole one."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.command import geofilter, write_rows
from helpers.scanning import errors_of, rows

from geofilter.cut.cut import Cut
from geofilter.cut.sets import read_set, torn
from geofilter.errors import GeofilterError, InputError, RunError
from geofilter.files import write_json
from geofilter.report.write import filter_run
from geofilter.rows.lines import Block
from geofilter.run.store import Run
from geofilter.sums import sealed
from geofilter.verify.verify import verify


@pytest.fixture(scope="module")
def scanned(tiny, tiny_bank: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sets")
    write_rows(folder / "d.jsonl", rows(20))
    pair = ("--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank)
    done = geofilter("scan", "d.jsonl", *pair, "--run", "run", "-q", cwd=folder)
    assert done.returncode == 0, done.stderr
    done = geofilter("filter", "run", "--drop", "10%", "-q", cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def base(scanned: Path, tmp_path: Path, monkeypatch) -> Path:
    shutil.copytree(scanned, tmp_path / "base")
    monkeypatch.chdir(tmp_path / "base")
    return tmp_path / "base"


def content(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Killed(BaseException):
    """Ends the process as far as the code can tell: nothing that follows is run."""


def stopped_at(monkeypatch, n: int) -> None:
    """Stop at the n-th file that is put in place."""
    left, real = [n], Path.replace

    def replace(self: Path, target: Path) -> Path:
        left[0] -= 1
        if left[0] < 0:
            raise Killed
        return real(self, target)

    monkeypatch.setattr(Path, "replace", replace)


def test_a_set_is_described_with_its_files_and_counts(base: Path):
    of = read_set(base / "d.set.json")
    assert of["counts"] == {"rows": 20, "kept": 18, "removed": 2, "quarantined": 0}
    assert of["cut"] == {"kind": "fraction", "value": 0.1}
    names = ["d.filtered.jsonl", "d.removed.jsonl", "d.quarantined.jsonl"]
    assert list(of["files"]) == [*names, "d.report.html", "d.report.json", "d.report.md"]
    assert list(torn(of, base / "d.set.json")) == []
    for other in ({**of, "format": 2}, [of]):
        (base / "d.set.json").write_text(json.dumps(other))
        with pytest.raises(
            RunError, match=r"d\.set\.json: damaged \(no description of a set\); run geofilter filter again"
        ):
            read_set(base / "d.set.json")
    (base / "d.set.json").unlink()
    with pytest.raises(RunError, match=r"d\.set\.json: is not there, so the files beside it are no whole set"):
        read_set(base / "d.set.json")


def test_a_filter_that_is_stopped_anywhere_leaves_the_old_set_or_says_so_and_is_mended(base: Path, monkeypatch):
    old = content(base)
    filter_run(Run.open(Path("run")), Cut.parse("50%"))
    new = content(base)
    for n in range(20):
        for name in content(base).keys() - old.keys():
            (base / name).unlink()
        for name, was in old.items():
            (base / name).write_bytes(was)
        with monkeypatch.context() as patched:
            stopped_at(patched, n)
            try:
                filter_run(Run.open(Path("run")), Cut.parse("50%"))
                break
            except Killed:
                pass
        now = content(base)
        if now != old:
            assert json.loads((base / "run" / "cut.json").read_bytes())["whole"] is False
            done = geofilter("report", "run", cwd=base)
            assert done.returncode == 4
            assert errors_of(done) == (
                "run: a filter (drop 50%) was stopped before all of its files were in place, some may be those of an "
                "earlier one; run geofilter filter run again"
            )
            done = geofilter("verify", "run", "--no-target", cwd=base)
            assert done.returncode == 4
            kept = now["d.filtered.jsonl"] == new["d.filtered.jsonl"]
            if kept != (now["d.removed.jsonl"] == new["d.removed.jsonl"]):
                assert "d.set.json" not in now
        done = geofilter("filter", "run", "--drop", "50%", "-q", cwd=base)
        assert ("was stopped before all of its files were in place" in done.stderr) == (now != old)
        assert content(base) == new
    assert n == 12  # cut.json twice, six files of the set, three reports of the run, the description


def test_a_disk_that_is_full_leaves_the_old_set_whole(base: Path, monkeypatch):
    old = content(base)
    import geofilter.report.write as writing

    def full(*_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "html", full)
    with pytest.raises(OSError, match="No space"):
        filter_run(Run.open(Path("run")), Cut.parse("50%"))
    assert content(base) == old


def test_another_cut_in_the_place_of_a_set_is_told_by_the_run_that_lost_it(base: Path, tiny, tiny_bank: Path):
    pair = ("--model", tiny[0], "--sae", tiny[1], "--bank", tiny_bank)
    done = geofilter("scan", "d.jsonl", *pair, "--scorer", "contrast", "--run", "other", "-q", cwd=base)
    assert done.returncode == 0, done.stderr
    assert geofilter("filter", "other", "--drop", "30%", "-q", cwd=base).returncode == 0
    done = geofilter("report", "run", cwd=base)
    assert (done.returncode, "note: d.set.json: is of another cut now" in done.stderr) == (0, True)
    assert geofilter("verify", "run", "--no-target", cwd=base).returncode == 4
    assert geofilter("verify", "other", "--no-target", cwd=base).returncode == 0
    (base / "d.set.json").write_text("{")
    done = geofilter("report", "other", cwd=base)
    assert "note: d.set.json: damaged (" in done.stderr


def test_a_file_of_a_set_that_was_changed_is_told(base: Path):
    with (base / "d.filtered.jsonl").open("a") as handle:
        handle.write("{}\n")
    done = geofilter("report", "run", cwd=base)
    assert "note: d.filtered.jsonl: is not what was written with the others" in done.stderr
    (base / "d.filtered.jsonl").unlink()
    done = geofilter("report", "run", cwd=base)
    assert "note: d.filtered.jsonl: cannot be read (No such file or directory)" in done.stderr
    (base / "run" / "report.html").write_text("other")
    done = geofilter("report", "run", cwd=base)
    assert (done.returncode, errors_of(done)) == (
        4, "run/report.html: is not what was written; run geofilter filter run again"
    )  # fmt: skip


def test_a_run_that_cannot_be_written_is_filtered_to_another_place(base: Path, monkeypatch):
    import os

    before = content(base / "run")
    (base / "out").mkdir()
    real = os.access
    monkeypatch.setattr(
        os, "access", lambda path, mode: mode != os.W_OK or ("run" not in str(path) and real(path, mode))
    )
    done = filter_run(Run.open(Path("run")), Cut.parse("50%"), Path("out"))
    assert content(base / "run") == before
    assert [str(page) for page in done.pages] == ["out/d.report.html"]
    assert read_set(base / "out" / "d.set.json")["counts"]["removed"] == 10


def test_outputs_are_as_private_as_their_input(base: Path):
    (base / "d.jsonl").chmod(0o600)
    filter_run(Run.open(Path("run")), Cut.parse("50%"))
    made = [*base.glob("d.*"), *(base / "run").glob("report.*"), base / "run" / "cut.json"]
    assert {path.name: path.stat().st_mode & 0o777 for path in made if path.stat().st_mode & 0o777 != 0o600} == {}


def test_an_input_that_cannot_be_read_is_told_as_that(base: Path, monkeypatch):
    old = content(base)
    import geofilter.run.rows as reading

    def broken(path: Path):
        line = (base / "d.jsonl").read_bytes().splitlines(keepends=True)[0]
        yield Block(line, [len(line)])
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(reading, "read_blocks", broken)
    with pytest.raises(InputError) as caught:
        filter_run(Run.open(Path("run")), Cut.parse("50%"))
    assert str(caught.value) == "d.jsonl: cannot be read (Input/output error)"
    assert content(base) == old


@pytest.mark.parametrize(
    "name", ["run/scores.safetensors", "run/vectors.safetensors", "run/scores.jsonl", "run/quarantine.jsonl"]
)
def test_what_a_cut_goes_by_is_believed_only_as_it_was_written(base: Path, name: str):
    old = content(base)
    data = bytearray(old[name] or b"\n")
    data[-1] ^= 128
    (base / name).write_bytes(data)
    for command in (lambda: filter_run(Run.open(Path("run")), Cut.parse("50%")),):
        with pytest.raises(RunError, match=f"{name}: is not what the scan wrote; make it again with: geofilter scan"):
            command()
    (base / name).unlink()
    with pytest.raises(GeofilterError, match=f"{name}: cannot be read"):
        filter_run(Run.open(Path("run")), Cut.parse("50%"))


def test_what_was_cut_for_a_pipe_goes_with_the_next_cut(base: Path):
    """It lies in the run's folder; a description that names the run's own files has none of them removed."""
    run, before = Run.open(Path("run")), set((base / "run").iterdir())
    filter_run(run, Cut("count", 2), run.path)
    assert {path.name for path in set((base / "run").iterdir()) - before} == {
        *(f"d.{name}" for name in ("filtered.jsonl", "removed.jsonl", "quarantined.jsonl", "set.json")),
        *(f"d.report.{kind}" for kind in ("html", "json", "md")),
    }
    assert verify(run)[0].doubts == []
    of = read_set(base / "run" / "d.set.json")
    others = dict.fromkeys(("scores.jsonl", "../d.jsonl", "scores.filtered./../lock"), of["files"]["d.filtered.jsonl"])
    write_json(base / "run" / "scores.set.json", sealed({**of, "files": others}))
    filter_run(run, Cut("count", 3))
    assert set((base / "run").iterdir()) == before
    assert (base / "d.jsonl").exists()
    assert verify(run)[0].doubts == []
