"""A scan in parts by several processes, and what completes it: the same bytes as in one."""

import json
import shutil
from pathlib import Path

import pytest
from helpers.command import Done, geofilter, write_rows
from helpers.scanning import errors_of, rows, scan_args

from geofilter.errors import InputError
from geofilter.files import locked
from geofilter.scanning.spread import Part


@pytest.fixture
def here(tiny, tiny_bank: Path, tmp_path: Path):
    write_rows(tmp_path / "a.jsonl", [*rows(31), {"nothing": 1}])
    write_rows(tmp_path / "d.jsonl", rows(21))
    args = scan_args(tiny, tiny_bank, "a.jsonl", "--shard-rows", 5)

    def call(*more: object) -> Done:
        return geofilter(*args, *more, cwd=tmp_path)

    def merge(*more: object) -> Done:
        return geofilter("merge", *more, cwd=tmp_path)

    call.merge, call.folder = merge, tmp_path
    return call


def written(run: Path) -> dict[str, bytes]:
    files = [*run.glob("features/*"), *run.glob("scores*"), run / "vectors.safetensors", run / "quarantine.jsonl"]
    return {file.name: file.read_bytes() for file in [*files, run / "plan.jsonl"]}


def test_parts_in_any_order_give_the_bytes_of_one_process(here, monkeypatch):
    whole = here("--run", "whole")
    assert whole.returncode == 0, whole.stderr
    for part in ("3/3", "1/3", "2/3"):
        done = here("--run", "run", "--shard", part)
        assert done.returncode == 0, done.stderr
        if part != "2/3":
            assert done.stdout == ""
            assert done.stderr.splitlines()[-1].endswith("when they are there: geofilter merge run")
            refused = geofilter("filter", "run", "--drop", "10%", cwd=here.folder)
            assert refused.returncode == 4 and "the scan is not complete" in refused.stderr
        # Who comes later reads no more than its own lines.
        monkeypatch.setattr("geofilter.scanning.parts.drafted", lambda _: pytest.fail("the inputs are read again"))
    assert done.stdout == whole.stdout
    assert written(here.folder / "run") == written(here.folder / "whole")
    assert not (here.folder / "run" / "work").exists()
    again = here("--run", "run", "--shard", "1/3", "--json")
    assert json.loads(again.stdout)["complete"] is True
    assert "note: run is complete already" in again.stderr
    assert not (here.folder / "run" / "work").exists()


def test_a_missing_part_is_named_and_merge_completes_the_rest(here):
    for part in ("1/4", "3/4", "4/4"):
        assert here("--run", "run", "--shard", part).returncode == 0
    done = here.merge("run")
    assert done.returncode == 4
    assert errors_of(done) == ("run: 3 of 11 shards are missing, from d.jsonl, line 11 on; scan again: --shard 2/4")
    # A shard of another part goes, too; then one of all numbers.
    (here.folder / "run" / "features" / "part-00009.safetensors").unlink()
    assert errors_of(here.merge("run")).endswith("4 of 11 shards are missing, from d.jsonl, line 11 on; scan again: "
                                                 "--shard 2/4 --shard 4/4")  # fmt: skip
    assert here("--run", "run", "--shard", "2/4").returncode == 0
    for path in (here.folder / "run").glob("work/part-*.lock"):
        path.unlink()
    assert errors_of(here.merge("run")).endswith("the same geofilter scan without --shard makes them")
    done = here("--run", "run", "--shard", "1/1")
    assert done.returncode == 0 and "to cut: geofilter filter run" in done.stderr
    assert here("--run", "whole").returncode == 0
    assert written(here.folder / "run") == written(here.folder / "whole")
    assert "is complete already" in here.merge("run").stderr


def test_parts_that_had_no_folder_in_common_are_gathered(here):
    for part in (1, 2, 3):
        assert here("--run", f"r{part}", "--shard", f"{part}/3").returncode == 0
    folder = here.folder
    shutil.copy(folder / "r1/features/part-00000.safetensors", folder / "r2/features/part-00000.safetensors")
    done = here.merge("r1", "r2", "r3")
    assert done.returncode == 0, done.stderr
    assert "note: part-00000.safetensors is in r1 and in r2; the one is as the other" in done.stderr
    assert here("--run", "whole").returncode == 0
    assert written(folder / "r1") == written(folder / "whole")


def test_a_doubled_shard_that_differs_and_another_scan_are_refused(here):
    assert here("--run", "r1", "--shard", "1/2").returncode == 0
    assert here("--run", "r2", "--shard", "2/2").returncode == 0
    folder = here.folder
    (folder / "r2/features/part-00001.safetensors").write_bytes(b"damaged")
    done = here.merge("r1", "r2")
    assert done.returncode == 4
    assert errors_of(done) == "part-00001.safetensors: is in r1 and, not the same, in r2; remove the wrong one"
    assert here("--run", "other", "--shard", "1/2", "--max-tokens", "64").returncode == 0
    assert errors_of(here.merge("r1", "other")).startswith("other: is of another scan than r1")
    assert here("--run", "r1", "--shard", "2/2", "--max-tokens", "64").returncode == 4
    assert errors_of(here("--run", "r1", "--shard", "2/2", "--scorer", "dense")) == (
        "r1: was begun with --scorer ridge, not dense; give each part the same options, or another --run"
    )
    assert "was begun with --exclude-feature (none), not 7;" in errors_of(
        here("--run", "r1", "--shard", "2/2", "--exclude-feature", "7")
    )
    assert errors_of(here.merge("r1", "nowhere")).startswith("nowhere: not a run folder")
    assert here.merge("nowhere").returncode == 4


def test_a_part_that_another_process_is_at_is_refused(here):
    assert here("--run", "run", "--shard", "1/2").returncode == 0
    with locked(here.folder / "run" / "work" / "part-2-of-2.lock", "taken"):
        done = here("--run", "run", "--shard", "2/2")
    assert done.returncode == 4
    assert errors_of(done) == "run: part 2/2 is being scanned by another process; wait for it, or give another part"


def test_inputs_that_change_under_way_are_told_of(here):
    assert here("--run", "run", "--shard", "1/2").returncode == 0
    path = here.folder / "a.jsonl"
    path.write_text(path.read_text().replace("question 20", "question 02"))
    done = here("--run", "run", "--shard", "2/2")
    assert done.returncode == 4
    assert errors_of(done).startswith("a.jsonl: has changed since the scan began, at line 20 or behind it")
    assert len(list(here.folder.glob("run/features/*"))) == 8


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3"])
def test_what_is_no_part_is_refused(text: str):
    with pytest.raises(InputError, match="is not K/N"):
        Part.parse(text)


def test_every_shard_is_of_one_part():
    for shards in (0, 1, 7, 1000):
        for of in (1, 3, 8):
            found = [n for k in range(1, of + 1) for n in range(*Part(k, of).numbers(shards))]
            assert found == list(range(shards))


def test_options_that_do_not_go_together_are_refused(here):
    for more, said in (
        (["--shard", "1/3"], "--shard 1/3: its run is shared by all parts; name its folder with --run"),
        (["--shard", "1/3", "--run", "r", "--engine", "ray"], "--shard 1/3: --engine ray divides the shards itself; "
         "leave one of them out"),
        (["--workers", "2"], "--workers 2: is of --engine ray; add that, or leave it out"),
        (["--engine", "spark"], "--engine spark: use local or ray"),
        (["--engine", "ray", "--workers", "0"], "--workers 0: must be at least 1"),
        (["--engine", "ray", "--address", "ray://h:10001"], "--address ray://h:10001: Ray Data does not work through "
         "Ray's client; run geofilter on a machine of the cluster with --address auto, or have ray job submit do so"),
    ):  # fmt: skip
        done = here(*more)
        assert (done.returncode, errors_of(done)) == (2, said)
